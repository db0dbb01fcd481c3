"""The machine that a snapshot is of, compared with the one that a command makes.

Danger: QEMU loads what it is given; a machine of another type or size fails late, with a message
of a section's number, or goes on with a device less. Decision: what the manifest knows is compared
before QEMU is started, and each difference is one line. Devices are compared as far as both
command lines tell.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.command_words import MACHINE, named
from pagecheck.snapshot.values import Machine, Snapshot
from pagecheck.vmm.options.ram_options import size_bytes

if TYPE_CHECKING:
    from pagecheck.snapshot.machine_types import MachineTypes

_ARCH: Final = re.compile(r"\.?qemu-system-([a-z0-9_]+)")


def require_same_machine(snapshot: Snapshot, words: Sequence[str], types: MachineTypes) -> None:
    """Compares what both are known to be.

    Args:
        words: the user's command, the program first.
        types: of its QEMU.

    Raises:
        UsageError: the command makes another machine, or the snapshot is not of a QEMU's VM.
    """
    machine = snapshot.machine
    if machine is None or snapshot.state is None:
        raise UsageError(
            "the snapshot holds memory alone, without the state of a VM: restore its RAM without "
            "--exec"
        )
    if machine.vmm.lower() != "qemu":
        raise UsageError(f"the snapshot is of {printable(machine.vmm)}, which QEMU cannot load")
    given = list(words)
    _compare_arch(machine, given[0])
    _compare_type(machine, given, types)
    _compare_ram(snapshot, given)
    _compare_vcpus(machine, given)
    _compare_cpu(machine, given)
    _compare_devices(machine, given)


def _differs(what: str, saved: object, given: object, way: str) -> UsageError:
    return UsageError(
        f"the command after --: {what} is {printable(str(given))}, and the snapshot's is "
        f"{printable(str(saved))}; {way}"
    )


def _compare_arch(machine: Machine, program: str) -> None:
    match = _ARCH.match(os.path.basename(program))
    if match is not None and machine.arch and match[1] != machine.arch:
        raise _differs("its architecture", machine.arch, match[1], "use the other QEMU")


def _type_of(words: list[str]) -> str:
    named_by = [each.keys("type").get("type") for each in named(words, *MACHINE)]
    return next((name for name in reversed(named_by) if name), "")


def _compare_type(machine: Machine, words: list[str], types: MachineTypes) -> None:
    if machine.machine_type is None:
        return
    given = _type_of(words) or types.default
    meant = types.names.get(given, given)
    if machine.machine_type not in types.names.values():
        raise UsageError(
            f"{printable(words[0])}: has no machine type {printable(machine.machine_type)}, which "
            "the snapshot is of; use the QEMU that it was saved from, or one that has it"
        )
    if meant != machine.machine_type:
        shown = given if given == meant else f"{given}, which to this QEMU is {meant}"
        way = f"write -machine {machine.machine_type}"
        raise _differs("its machine type", machine.machine_type, shown, way)


def _compare_ram(snapshot: Snapshot, words: list[str]) -> None:
    sizes = [each.keys("size").get("size") for each in named(words, "m")]
    text = next((size for size in reversed(sizes) if size), None)
    size = None if text is None else size_bytes(text, "m")
    plugged = {each.keys("driver").get("memdev") for each in named(words, "device")}
    saved = sum(each.size for each in snapshot.blocks if each.name not in plugged)
    if size is not None and size + -size % 8192 != saved:
        way = f"write -m {saved >> 20}M" if saved % (1 << 20) == 0 else f"write -m {saved}B"
        raise _differs("its RAM (-m)", f"{saved} bytes", f"{size} bytes", way)


def _vcpus(words: list[str]) -> int | None:
    """As -smp says; None where that cannot be read."""
    keys: dict[str, str] = {}
    for each in named(words, "smp"):
        keys.update(each.keys("cpus"))
    try:
        if "cpus" in keys:
            return int(keys["cpus"])
        count = 1
        for key in ("drawers", "books", "sockets", "dies", "clusters", "cores", "threads"):
            count *= int(keys.get(key, "1"))
    except ValueError:
        return None
    return count if "maxcpus" not in keys or len(keys) > 1 else None


def _compare_vcpus(machine: Machine, words: list[str]) -> None:
    given = _vcpus(words)
    if machine.vcpus is not None and given is not None and given != machine.vcpus:
        way = f"write -smp {machine.vcpus}"
        raise _differs("its number of vCPUs", machine.vcpus, given, way)


def _model(words: list[str]) -> str:
    models = [each.keys("model").get("model", "") for each in named(words, "cpu")]
    return models[-1] if models else ""


def _compare_cpu(machine: Machine, words: list[str]) -> None:
    if machine.command_line:
        saved, given = _model(list(machine.command_line)), _model(words)
        if saved != given:
            way = f"write -cpu {saved}" if saved else "drop -cpu"
            raise _differs("its -cpu", saved or "the default", given or "the default", way)


def _drivers(words: list[str]) -> Counter[str]:
    found = Counter(each.keys("driver").get("driver", "") for each in named(words, "device"))
    found["-nodefaults"] = len(named(words, "nodefaults")[:1])
    return +found


def _compare_devices(machine: Machine, words: list[str]) -> None:
    if not machine.command_line:
        return
    saved, given = _drivers(list(machine.command_line)), _drivers(words)
    for what, found in (("lacks", saved - given), ("adds", given - saved)):
        if found:
            names = ", ".join(printable(name) for name in sorted(found))
            raise UsageError(
                f"the command after --: {what} {names}, unlike the command that the snapshot's VM "
                "was started with; give the same devices"
            )
