"""The machine of a snapshot and that of a command: each difference is found and named."""

from __future__ import annotations

import shlex

import pytest

from pagecheck.errors import EngineError, PeerError, UsageError
from pagecheck.snapshot.comparing import require_same_machine
from pagecheck.snapshot.machine_types import MachineTypes, TypesQuery, parse_types
from pagecheck.snapshot.values import FileEntry, Machine, Snapshot, SnapshotBlock

MIB = 1 << 20
SUM = "xxh3-128:" + "0" * 32
HELP = """Supported machines are:
microvm              microvm (i386)
pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)
pc-i440fx-7.2        Standard PC (i440FX + PIIX, 1996) (default)
pc-i440fx-1.4        Standard PC (i440FX + PIIX, 1996) (deprecated)
q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)
pc-q35-7.2           Standard PC (Q35 + ICH9, 2009)
none                 empty machine
"""
TYPES = parse_types(HELP)
LINE = "-machine q35 -m 256M -smp 2 -cpu max -nodefaults -device e1000 -device virtio-rng-pci"


def words(line: str) -> list[str]:
    return shlex.split(f"qemu-system-x86_64 {line}")


def snapshot(
    line: str | None = LINE,
    machine_type: str = "pc-q35-7.2",
    vcpus: int | None = 2,
    size: int = 256 * MIB,
) -> Snapshot:
    machine = Machine(
        "qemu", "7.2.22", machine_type, "x86_64", vcpus, tuple(words(line) if line else ())
    )
    entry = FileEntry("x", 1, SUM)
    block = SnapshotBlock("pc.ram", size, "r", 0, (), "private", 0, 0, entry, entry)
    return Snapshot("tests", "2026-01-31T12:00:00Z", True, 4096, machine, (block,), entry)


def test_the_types_of_a_qemu_are_read() -> None:
    assert TYPES.default == "pc-i440fx-7.2"
    assert TYPES.names["q35"] == "pc-q35-7.2"
    assert TYPES.names["microvm"] == "microvm"
    assert TYPES.names["pc-i440fx-1.4"] == "pc-i440fx-1.4"
    assert "Supported" not in TYPES.names


@pytest.mark.parametrize(
    "line",
    [
        LINE,
        LINE.replace("q35", "pc-q35-7.2"),
        LINE.replace("q35", "type=q35,accel=tcg"),
        LINE.replace("-machine q35", "-M pc -machine q35"),
        LINE.replace("-smp 2", "-smp sockets=2"),
        LINE.replace("-smp 2", "-smp cores=2,threads=1"),
        LINE.replace("-smp 2", "-smp cpus=2,maxcpus=4"),
        LINE.replace("256M", "size=0.25G"),
        LINE + " -drive file=other.img -serial stdio",
        LINE.replace("e1000", "e1000,netdev=n"),
        LINE.replace("-device e1000", """-device '{"driver":"e1000"}'"""),
    ],
)
def test_the_same_machine_is_taken(line: str) -> None:
    require_same_machine(snapshot(), words(line), TYPES)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (LINE.replace("q35", "pc"), "machine type is pc, which to this QEMU is pc-i440fx-7.2, and"),
        (LINE.replace("-machine q35", ""), "machine type is pc-i440fx-7.2, and"),
        (LINE.replace("256M", "512M"), r"RAM .-m. is 536870912 bytes.*write -m 256M"),
        (LINE.replace("-smp 2", "-smp 4"), r"vCPUs is 4.*is 2; write -smp 2"),
        (LINE.replace("-smp 2", ""), "vCPUs is 1"),
        (LINE.replace("-smp 2", "-smp cores=2,threads=2"), "vCPUs is 4"),
        (LINE.replace("-cpu max", ""), "-cpu is the default, and the snapshot's is max"),
        (LINE.replace("max", "host"), "-cpu is host"),
        (LINE.replace("-device e1000", ""), "lacks e1000"),
        (LINE + " -device e1000", "adds e1000"),
        (LINE.replace("-nodefaults", ""), "lacks -nodefaults"),
    ],
)
def test_another_machine_is_named_on_one_line(line: str, wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong) as error:
        require_same_machine(snapshot(), words(line), TYPES)
    assert "\n" not in str(error.value)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="architecture is aarch64"):
        require_same_machine(snapshot(), ["/q/qemu-system-aarch64", "-M", "virt"], TYPES)


def test_a_qemu_that_lacks_the_type_is_named() -> None:
    with pytest.raises(UsageError, match=r"no machine type pc-q35-9\.0"):
        require_same_machine(snapshot(machine_type="pc-q35-9.0"), words(LINE), TYPES)


def test_what_the_manifest_does_not_know_is_not_compared() -> None:
    line = "-machine q35 -m 256 -device other"
    require_same_machine(snapshot(None, vcpus=None), words(line), TYPES)


def test_memory_alone_starts_no_vm() -> None:
    for lacking in ({"machine": None}, {"state": None}):
        with pytest.raises(UsageError, match="memory alone"):
            require_same_machine(snapshot()._replace(**lacking), words(LINE), TYPES)  # type: ignore[arg-type]
    other = snapshot()._replace(machine=Machine("firecracker", None, None, None, None, ()))
    with pytest.raises(UsageError, match="is of firecracker"):
        require_same_machine(other, words(LINE), TYPES)


def test_a_program_that_cannot_tell_is_an_error() -> None:
    with pytest.raises(EngineError, match="not a program"):
        TypesQuery("/nowhere/qemu-system-x86_64")
    with TypesQuery("false") as query, pytest.raises(PeerError, match="-machine help"):
        query.types()


def test_an_empty_list_has_no_default() -> None:
    assert parse_types("") == MachineTypes({}, "")
