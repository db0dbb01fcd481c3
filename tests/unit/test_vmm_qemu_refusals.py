"""What a QEMU says of itself that cannot be saved, or that nobody should believe."""

from __future__ import annotations

from typing import Any

import pytest

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.vmm.qemu.disks import Disk, require_choice, writable_disks
from pagecheck.vmm.qemu.machine import machine_of
from pagecheck.vmm.qemu.refusals import require_savable


class Qemu:
    """In place of a monitor."""

    def __init__(self, **said: Any) -> None:
        self.name = "qmp:x"
        self.peer_pid = 0
        self.said: dict[str, Any] = {
            "query-version": {"qemu": {"major": 8, "minor": 0, "micro": 2}, "package": ""},
            "query-commands": [{"name": "stop"}, {"name": "xen-save-devices-state"}],
            "query-target": {"arch": "x86_64"},
            "query-migrate": {},
            "qom-list": [],
            "qom-get": "pc-q35-8.0-machine",
            "human-monitor-command": "",
            "query-cpus-fast": [{}],
            "query-memory-devices": [],
            "query-memdev": [],
            "query-kvm": {"enabled": True, "present": True},
            **{key.replace("_", "-"): value for key, value in said.items()},
        }

    def execute(self, command: str, **_arguments: Any) -> Any:
        if isinstance(value := self.said[command], Exception):
            raise value
        return value


def refused(**said: Any) -> str:
    with pytest.raises(SourceError, match=r"^qmp:x: cannot be saved: ") as caught:
        require_savable(Qemu(**said))  # type: ignore[arg-type]
    return str(caught.value).removeprefix("qmp:x: cannot be saved: ")


def device(type_: str) -> list[dict[str, str]]:
    return [{"name": "type", "type": "string"}, {"name": "dev0", "type": f"child<{type_}>"}]


def test_one_that_can_be_saved() -> None:
    require_savable(Qemu(qom_list=device("virtio-blk-pci")))  # type: ignore[arg-type]


def test_versions_that_cannot_save() -> None:
    old = {"qemu": {"major": 6, "minor": 2, "micro": 0}, "package": ""}
    assert refused(query_version=old) == "is QEMU 6.2.0; QEMU 7.2 or later is needed"
    assert refused(query_commands=[]).startswith("this QEMU 8.0.2 was built without xen-save-")
    assert refused(query_target={"arch": "ppc64"}).startswith("its guest is ppc64; x86_64, ")


@pytest.mark.parametrize("status", ["setup", "active", "postcopy-active", "of-a-later-qemu"])
def test_during_a_migration(status: str) -> None:
    assert refused(query_migrate={"status": status}).startswith(f"it is being migrated ({status})")


def test_what_qemu_itself_cannot_migrate() -> None:
    said = {"status": "completed", "blocked-reasons": ["CPU flag invtsc", "a\nline"]}
    assert refused(query_migrate=said) == "CPU flag invtsc; a\\nline"


@pytest.mark.parametrize(
    "type_",
    ["vfio-pci", "vfio-pci-nohotplug", "vhost-user-fs-pci", "vhost-vdpa-device-pci", "virtio-mem"],
)
def test_devices_by_name(type_: str) -> None:
    assert refused(qom_list=device(type_)).startswith(f"device dev0 is {type_}: ")


@pytest.mark.parametrize("kind", ["vhost-user", "vhost-vdpa"])
def test_network_by_name(kind: str) -> None:
    said = f"nic.0: index=0,type=nic,model=virtio-net-pci\r\n \\ net0: index=0,type={kind},x\r\n"
    assert refused(human_monitor_command=said).startswith(f"network net0 is {kind}: ")


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("query-version", {"qemu": {"major": "8", "minor": 0, "micro": 2}, "package": ""}),
        ("query-commands", {"name": 1}),
        ("query-commands", [{"name": 1}]),
        ("query-target", {}),
        ("query-migrate", []),
        ("query-migrate", {"blocked-reasons": [7]}),
        ("qom-list", [{"name": "x"}]),
        ("human-monitor-command", None),
    ],
)
def test_answers_that_are_none(command: str, value: Any) -> None:
    with pytest.raises(PeerError, match=rf"^qmp:x: the answer to {command}.*: must be "):
        require_savable(Qemu(**{command: value}))  # type: ignore[arg-type]


def test_what_a_qemu_is() -> None:
    refusal = PeerError("refused")
    assert machine_of(Qemu()).accelerator == "kvm"  # type: ignore[arg-type]
    qemu = Qemu(query_kvm=refusal, x_query_jit=refusal, query_target={"arch": "aarch64"})
    machine = machine_of(qemu)  # type: ignore[arg-type]
    assert (machine.accelerator, machine.page_bits, machine.command_line) == ("other", 12, [])
    assert (machine.machine_type, machine.vmm_version) == ("pc-q35-8.0", "8.0.2")


@pytest.mark.parametrize(
    "value", [{}, [{"qdev": "/x", "inserted": {}}], [{"qdev": 1, "inserted": {"ro": False}}]]
)
def test_disks_that_are_none(value: Any) -> None:
    with pytest.raises(PeerError, match=r"^qmp:x: the answer to query-block.*: must be "):
        writable_disks(Qemu(query_block=value))  # type: ignore[arg-type]


DISK = Disk("vda", "vda", "#block1", "/a.qcow2", "/a.qcow2", "qcow2", 1 << 30, False, False, False)


@pytest.mark.parametrize(
    ("disks", "choice", "then", "why"),
    [
        ([], None, "run", ""),
        ([DISK], "none", "run", ""),
        ([DISK], "overlay", "run", ""),
        ([DISK], None, "quit", ""),
        ([DISK], None, "run", r"^qmp:x: disk vda can be written: .*--disks none"),
        ([DISK._replace(is_temporary=True)], "none", "run", ""),
        ([DISK._replace(is_temporary=True)], "overlay", "run", "vda was started with snapshot=on"),
        ([DISK._replace(is_temporary=True)], None, "quit", "vda was started with snapshot=on"),
        ([DISK._replace(is_temporary=True)], None, "run", "vda was started with snapshot=on"),
    ],
)
def test_the_user_says_what_becomes_of_disks(
    disks: list[Disk], choice: str | None, then: str, why: str
) -> None:
    if not why:
        require_choice("qmp:x", disks, choice, then)
        return
    with pytest.raises(UsageError, match=why):
        require_choice("qmp:x", disks, choice, then)


def medium(file: str) -> list[dict[str, Any]]:
    inserted = {
        "ro": False,
        "file": file,
        "node-name": "#block1",
        "drv": "qcow2",
        "cache": {"direct": False, "no-flush": True},
        "image": {"virtual-size": 1 << 20},
    }
    return [{"device": "", "qdev": "/machine/x/virtio-backend", "inserted": inserted}]


@pytest.mark.parametrize(
    ("file", "path", "is_temporary"),
    [
        ("/a.qcow2", "/a.qcow2", False),
        ("nbd://host/a", "", False),
        ("a.qcow2", "", False),
        ('json:{"driver": "qcow2", "file": {"filename": "/var/tmp/vl.7QO9Y3"}}', "", True),
        ("/var/tmp/vl.7QO9Y3", "/var/tmp/vl.7QO9Y3", True),
        ("json:{", "", False),
        ("json:[1, 2]", "", False),
        ("json:" + '{"a":' * 100_000, "", False),
    ],
)
def test_files_of_disks(file: str, path: str, is_temporary: bool) -> None:
    (disk,) = writable_disks(Qemu(query_block=medium(file)))  # type: ignore[arg-type]
    assert (disk.device, disk.path, disk.is_temporary) == ("/machine/x", path, is_temporary)
    assert disk.file == file
