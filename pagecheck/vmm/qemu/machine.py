"""What a QEMU is: what a snapshot keeps of it, and what another QEMU must be to go on with it."""

from __future__ import annotations

import contextlib
from typing import Any, Final, NamedTuple

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.memory import ProcessMemory
from pagecheck.vmm.qemu.asking import asked

# Bits of a guest page where the architecture leaves them to the machine, and a stream names them.
# Source: vmstate_target_page_bits in QEMU's migration/savevm.c; arm_cpu_realizefn().
_PAGE_BITS: Final = {"aarch64": 12, "arm": 12}
_OBJECTS: Final = "/objects/"
_DISCARDING: Final = ("virtio-balloon", "virtio-mem")


class Machine(NamedTuple):
    """A QEMU as JSON values; `_asdict` is what a manifest keeps.

    Attributes:
        vmm: "qemu".
        vmm_version: such as "7.2.22".
        package: what its packager calls the version; may be empty.
        machine_type: its whole name, such as "pc-q35-7.2".
        arch: QEMU's name of the guest's, such as "x86_64".
        vcpus: how many there are.
        accelerator: "kvm", "tcg" or "other".
        page_bits: of a guest page, where the machine decides it; else 0.
        command_line: what it was started with; empty where that cannot be seen.
        memory: each backend of RAM: `block`, `kind` ("machine": of -m or of -machine
            memory-backend; "device": of a DIMM and the like; "other": of a NUMA node and the like),
            `size` and `share`.
        discards: devices that give RAM back by punching holes into its file, private or not.
    """

    vmm: str
    vmm_version: str
    package: str
    machine_type: str
    arch: str
    vcpus: int
    accelerator: str
    page_bits: int
    command_line: list[str]
    memory: list[dict[str, Any]]
    discards: list[str]


def machine_of(monitor: QemuMonitor) -> Machine:
    """Asks a QEMU what it is.

    Raises:
        PeerError: it does not answer, or its answer is invalid.
    """
    arch = asked(monitor, "query-target").member("arch").text()
    version = asked(monitor, "query-version")
    kind = asked(monitor, "qom-get", path="/machine", property="type").text()
    return Machine(
        vmm="qemu",
        vmm_version=".".join(str(each) for each in version_of(monitor)),
        package=version.member("package").text(),
        machine_type=kind.removesuffix("-machine"),
        arch=arch,
        vcpus=len(asked(monitor, "query-cpus-fast").items()),
        accelerator=_accelerator(monitor),
        page_bits=_PAGE_BITS.get(arch, 0),
        command_line=_command_line(monitor),
        memory=_memory(monitor),
        discards=[
            name for name, type_ in devices(monitor).items() if type_.startswith(_DISCARDING)
        ],
    )


def version_of(monitor: QemuMonitor) -> tuple[int, int, int]:
    """QEMU's version.

    Raises:
        PeerError: it does not answer, or its answer is invalid.
    """
    numbers = asked(monitor, "query-version").member("qemu")
    major, minor, micro = (numbers.member(each).size() for each in ("major", "minor", "micro"))
    return major, minor, micro


def devices(monitor: QemuMonitor) -> dict[str, str]:
    """The devices that the user chose.

    Returns:
        The type of each, such as "virtio-blk-pci", by its id, or by its path where it has none.

    Raises:
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    found = {}
    for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
        for each in asked(monitor, "qom-list", path=folder).items():
            kind, name = each.member("type").text(), each.member("name").text()
            if kind.startswith("child<"):
                shown = name if folder.endswith("peripheral") else f"{folder}/{name}"
                found[shown] = kind.removeprefix("child<").removesuffix(">")
    return found


def _accelerator(monitor: QemuMonitor) -> str:
    with contextlib.suppress(PeerError):
        if asked(monitor, "query-kvm").member("enabled").flag():
            return "kvm"
    try:
        monitor.execute("x-query-jit")  # refused by every other accelerator
    except PeerError:
        return "other"
    return "tcg"


def _command_line(monitor: QemuMonitor) -> list[str]:
    if monitor.peer_pid <= 0:
        return []
    try:
        with ProcessMemory(monitor.peer_pid) as process:
            words = process.command_line()
            process.verify()
    except SourceError:
        return []
    return words[:-1] if words and not words[-1] else words


def _memory(monitor: QemuMonitor) -> list[dict[str, Any]]:
    first = asked(monitor, "qom-get", path="/machine", property="memory-backend")
    of_machine = "" if first.is_null() else first.text().removeprefix(_OBJECTS)
    of_devices = set()
    for each in asked(monitor, "query-memory-devices").items():
        if (memdev := each.member("data").optional("memdev")) is not None:
            of_devices.add(memdev.text().removeprefix(_OBJECTS))
    found = []
    for each in asked(monitor, "query-memdev").items():
        if (name := each.optional("id")) is None:
            continue
        kind = "machine" if name.text() == of_machine else "other"
        share = each.optional("share")
        found.append(
            {
                "block": name.text(),
                "kind": "device" if name.text() in of_devices else kind,
                "size": each.member("size").size(),
                "share": share is not None and share.flag(),
            }
        )
    return found
