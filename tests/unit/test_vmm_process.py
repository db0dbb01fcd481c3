"""Which mappings of a process are taken for guest RAM, and what is said of the others."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import is_vm_source
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.vmm import open_vm
from pagecheck.vmm.find.explain import explain
from pagecheck.vmm.find.process import open_process
from pagecheck.vmm.find.shared import shared_blocks
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import is_shared_memory

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20

# Each argument is NAME:MIB, a memfd; NAME:MIB:OFFSET maps it from there on; a path is mapped
# privately, "shared=" and a path shared, and "anon" is 32 MiB of private memory.
_VMM = """
import mmap, os, sys
kept = []
for word in sys.argv[1:]:
    if word == "anon":
        kept.append(mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    elif word == "cut":
        os.ftruncate(fd, 1 << 20)
    elif word.startswith("shared="):
        fd = os.open(word[7:], os.O_RDWR)
        kept.append(mmap.mmap(fd, 32 << 20))
    elif word.startswith("/"):
        fd = os.open(word, os.O_RDWR)
        kept.append(mmap.mmap(fd, 32 << 20, flags=mmap.MAP_PRIVATE))
    else:
        name, size, *offset = word.split(":")
        start = int(offset[0]) << 20 if offset else 0
        fd = os.memfd_create(name)
        os.ftruncate(fd, int(size) << 20)
        kept.append(mmap.mmap(fd, (int(size) << 20) - start, offset=start))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def vmm(*words: str) -> Iterator[int]:
    """A process that maps what is asked for; gives its pid."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _VMM, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def found(text: str) -> list[tuple[str, int, int]]:
    with open_vm(text) as vm:
        return [(ram.source.name, ram.start // MIB, ram.size // MIB) for ram in vm.rams]


def test_known_names_of_any_size_and_others_that_are_large() -> None:
    """Left out would be worse than one too many: a DIMM may have a name of its user's."""
    with vmm("dimm:32", "small:15", "ch_ram:1", "guest_mem:2") as pid:
        assert sorted(found(f"pid:{pid}")) == [
            ("ch_ram", 0, 1),
            ("dimm", 0, 32),
            ("guest_mem", 0, 2),
        ]


@pytest.mark.parametrize(
    "name",
    [
        "memory-backend-memfd",
        "ch_ram",
        "guest_mem",
        "crosvm_guest",
        "qemu_back_mem.mem0.a1B2c3",
        "qemu-12-shm-0",
    ],
)
def test_every_known_name(name: str) -> None:
    with vmm(f"{name}:1", "unrelated:15") as pid:
        assert found(f"pid:{pid}") == [(name, 0, 1)]


def test_otherwise_everything_large() -> None:
    with vmm("a:16", "b:15", "c:17") as pid:
        assert sorted(found(f"pid:{pid}")) == [("a", 0, 16), ("c", 0, 17)]


def test_a_file_on_disk_is_no_guest_ram(tmp_path: Path) -> None:
    disk = tmp_path / "database"
    disk.touch()
    os.truncate(disk, 32 * MIB)
    with disk.open("rb") as file:
        if is_shared_memory(file.fileno()):
            pytest.skip(f"{tmp_path} is not on disk")
    with vmm(f"shared={disk}", "a:16") as pid:
        with open_vm(f"pid:{pid}") as vm:
            assert [ram.source.name for ram in vm.rams] == ["a"]
            assert vm.unreadable == []
            (note,) = [each for each in vm.notes if "database" in each]
        assert note == (
            f"pid:{pid}: database (32 MiB), which is mapped, is a file on disk and is left out; "
            f"give pid:{pid}:database if it is guest RAM"
        )
        assert found(f"pid:{pid}:database") == [("database", 0, 32)]
    with vmm(f"shared={disk}") as pid, pytest.raises(SourceError, match=r"database \(32 MiB\)"):
        found(f"pid:{pid}")


def test_a_small_one_can_be_named() -> None:
    with vmm("a:16", "b:1") as pid:
        assert found(f"pid:{pid}:b") == [("b", 0, 1)]
        with pytest.raises(SourceError, match=r"no RAM named 'c'; there is .*'a'"):
            found(f"pid:{pid}:c")


def test_a_name_with_a_colon() -> None:
    words = _VMM.replace('word.split(":")', '("x:y", 16)')
    assert words != _VMM
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", words, "w"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        assert found(f"pid:{process.pid}:x:y") == [("x:y", 0, 16)]
        process.kill()


def test_one_name_twice() -> None:
    with vmm("ch_ram:1", "ch_ram:2", "ch_ram:3") as pid, open_vm(f"pid:{pid}") as vm:
        assert [ram.source.name for ram in vm.rams] == ["ch_ram", "ch_ram-2", "ch_ram-3"]
        assert sorted(ram.size for ram in vm.rams) == [MIB, 2 * MIB, 3 * MIB]


def test_a_block_begins_where_it_is_mapped() -> None:
    with vmm("ch_ram:8:3") as pid:
        assert found(f"pid:{pid}") == [("ch_ram", 3, 5)]


def mapping(start: int, offset: int, inode: int = 7, perms: str = "rw-s") -> Mapping:
    return Mapping(start, start + MIB, perms, offset, 1, inode, "/memfd:ram", True)


def test_mappings_of_one_file_are_one_block() -> None:
    maps = [mapping(9 * MIB, 2 * MIB), mapping(1 * MIB, 4 * MIB), mapping(5 * MIB, 3 * MIB)]
    (block,) = shared_blocks(maps)
    assert (block.name, block.start, block.end) == ("ram", 2 * MIB, 5 * MIB)


def test_names_go_by_address() -> None:
    maps = [mapping(9 * MIB, 0, 1), mapping(5 * MIB, 0, 2), mapping(2 * MIB, 0, 3)]
    blocks = shared_blocks(maps)
    assert [(each.name, each.mapping.inode) for each in blocks] == [
        ("ram", 3),
        ("ram-2", 2),
        ("ram-3", 1),
    ]


@pytest.mark.parametrize("perms", ["rw-p", "r--p", "---s"])
def test_only_shared_and_readable_mappings_count(perms: str) -> None:
    assert shared_blocks([mapping(MIB, 0, perms=perms)]) == []
    assert len(shared_blocks([mapping(MIB, 0, perms="r--s")])) == 1


def test_numbers_that_repeat() -> None:
    """Files of two subvolumes of one btrfs have one device and may have one inode number."""
    one, other = mapping(MIB, 0), mapping(3 * MIB, 0)._replace(path="/snapshot/ram")
    assert [each.mapping for each in shared_blocks([one, other])] == [one, other]


def test_private_memory_is_a_block() -> None:
    with vmm("anon") as pid:
        (mapping,) = [each for each in explain(f"pid:{pid}") if each.size == 32 * MIB]
        ram, process = open_process(f"pid:{pid}:@{mapping.start:x}-{mapping.end:x}")
        process.close()
        (block,) = ram.rams
        assert isinstance(block.source, ProcessRam)
        assert block.source.pid == pid
        block.source.close()


def test_a_process_that_is_no_vmm() -> None:
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    with process, pytest.raises(SourceError, match=r"\(cat\): maps no memory of 16 MiB"):
        found(f"pid:{process.pid}")


def test_a_file_that_was_cut_short() -> None:
    with vmm("ch_ram:8", "cut") as pid, pytest.raises(SourceError, match="it was truncated"):
        found(f"pid:{pid}")


@pytest.mark.parametrize(
    "text",
    ["pid:", "pid:x", "pid:0", "pid:-1", "pid:\uff11", "pid:99999999999", "pid: 1", "pid::a"],
)
def test_what_is_no_pid(text: str) -> None:
    assert is_vm_source(text)
    with pytest.raises(SourceError, match="is not a process id; write pid:PID"):
        open_vm(text)


def test_what_is_no_source() -> None:
    assert not is_vm_source("/dev/shm/vm1")
    with pytest.raises(UsageError, match="is not the name of a VM"):
        open_vm("/dev/shm/vm1")
    with pytest.raises(SourceError, match="no name after the colon"):
        open_vm(f"pid:{os.getpid()}:")
