"""Private guest RAM of VMMs that cannot be run here, found in processes that map memory as their
sources say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagecheck import explain, scan
from pagecheck.errors import SourceError
from pagecheck.vmm import open_vm
from tests.support.stand_ins import stand_in

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20
GIB = 1 << 30
NORESERVE = "0x4000"  # Source: linux/mman.h
# Of ordinary memory, with a file between, so that the kernel makes no one mapping of neighbours.
HEAP = "shared('a', 4 << 20), private(64 << 20), shared('b', 4 << 20)"


def blocks(source: str) -> list[tuple[str, int]]:
    with open_vm(source) as vm:
        assert vm.unreadable == []
        return [(each.source.name, each.size // MIB) for each in vm.rams]


def test_firecracker_by_its_api() -> None:
    """Nothing says how much RAM it has."""
    holds = f"({HEAP}, private(512 << 20, {NORESERVE}))"
    with stand_in("firecracker", "--api-sock", "/run/x", does=holds) as pid:
        assert blocks(f"pid:{pid}") == [("ram", 512)]
        report = scan(f"pid:{pid}")
    assert report.total.normal == 1
    assert report.total.zero == 512 * 256 - 1


def test_firecracker_by_its_file(tmp_path: Path) -> None:
    config = tmp_path / "vm.json"
    config.write_text('{"machine-config": {"mem_size_mib": 64}}')
    holds = f"({HEAP}, private(64 << 20, {NORESERVE}))"
    with stand_in("firecracker", "--no-api", "--config-file", str(config), does=holds) as pid:
        assert blocks(f"pid:{pid}") == [("ram", 64)]


def test_firecracker_with_two_sides_of_the_hole() -> None:
    sides = [f"private({size} << 30, {NORESERVE})" for size in (3, 1)]
    holds = f"({HEAP}, {sides[0]}, shared('c', 4 << 20), {sides[1]})"
    with stand_in("firecracker", does=holds) as pid:
        assert sorted(size for _, size in blocks(f"pid:{pid}")) == [1024, 3072]


def test_a_restored_firecracker(tmp_path: Path) -> None:
    """Pages that it did not write are the file's."""
    memory = tmp_path / "mem"
    memory.touch()
    os.truncate(memory, 64 * MIB)
    with memory.open("r+b") as file:
        file.seek(4096 * 7)
        file.write(b"from the file")
    holds = f"mmap.mmap(os.open({str(memory)!r}, os.O_RDONLY), 64 << 20, mmap.MAP_PRIVATE)"
    with stand_in("firecracker", does=holds) as pid:
        assert blocks(f"pid:{pid}") == [("ram", 64)]
        report = scan(f"pid:{pid}")
    assert report.total.normal == 1
    assert report.total.undecided == 0


def test_cloud_hypervisor_whose_sides_the_kernel_merged() -> None:
    holds = f"(private(3 << 30, {NORESERVE}), private(1 << 30, {NORESERVE}))"
    words = ("--kernel", "k", "--memory", "size=4G")
    with stand_in("cloud-hypervisor", *words, does=holds) as pid:
        assert sum(size for _, size in blocks(f"pid:{pid}")) == 4096


def test_cloud_hypervisor_with_zones() -> None:
    holds = (
        f"(private(64 << 20, {NORESERVE}), shared('ch_ram', 32 << 20),"
        f" private(128 << 20, {NORESERVE}))"
    )
    words = ("--memory", "size=0", "--memory-zone", "id=a,size=64M", "id=b,size=128M")
    words = ("--kernel", "k", *words, "id=c,size=32M,shared=on")
    with stand_in("cloud-hypervisor", *words, does=holds) as pid:
        assert sorted(blocks(f"pid:{pid}")) == [("a", 64), ("b", 128), ("ch_ram", 32)]
        assert blocks(f"pid:{pid}:b") == [("b", 128)]


def test_a_block_that_was_merged_with_other_memory_is_not_guessed() -> None:
    words = ("--kernel", "k", "--memory", "size=64M")
    why = r"\(96 MiB\) is larger and may hold it; name it with --range"
    holds = "(private(64 << 20), private(32 << 20))"
    with (
        stand_in("cloud-hypervisor", *words, does=holds) as pid,
        pytest.raises(SourceError, match=why),
    ):
        open_vm(f"pid:{pid}")


def test_a_vm_of_an_unknown_vmm() -> None:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"needs /dev/kvm: {error}")
    with stand_in("myvmm", does="(private(256 << 20), kvm_vm())") as pid:
        assert blocks(f"pid:{pid}") == [("ram", 256)]


def test_a_process_that_is_no_vmm() -> None:
    with stand_in("database", does="private(256 << 20)") as pid:
        with pytest.raises(
            SourceError, match=r"\(python.*\): is not a VMM that .* --range"
        ) as error:
            open_vm(f"pid:{pid}")
        (mapping,) = [each for each in explain(f"pid:{pid}") if each.size == 256 * MIB]
        assert f"{mapping.start:#x}-{mapping.end:#x} (256 MiB)" in str(error.value)
        assert blocks(f"pid:{pid}:@{mapping.start:x}-{mapping.end:x}") == [("range", 256)]
