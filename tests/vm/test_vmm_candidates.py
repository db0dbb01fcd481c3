"""Guest RAM found among the mappings of a real QEMU, against where QEMU itself says it is."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import scan
from pagecheck.errors import SourceError
from pagecheck.vmm import open_vm
from pagecheck.vmm.find.candidates import search_of
from pagecheck.vmm.find.considered import Considered
from pagecheck.vmm.find.search import PrivateRam
from pagecheck.vmm.options.command_line import command_line_of
from pagecheck.vmm.process.memory import ProcessMemory
from tests.vm.bare_qemu import BareQemu, bare_qemu

pytestmark = pytest.mark.usefixtures("guest_files", "clean")

MIB = 1 << 20
NODE = "-object memory-backend-ram,id={0},size=32M -numa node,memdev={0}"
RESERVED = Path("/proc/sys/vm/nr_hugepages")


def place(qemu: BareQemu, address: int = 0) -> tuple[str, int]:
    """The block at a guest-physical address, and QEMU's address of it."""
    said = qemu.human(f"gpa2hva {address:#x}")
    found = re.fullmatch(r"Host virtual address for 0x[0-9a-f]+ \((.+)\) is 0x([0-9a-f]+)\s*", said)
    assert found is not None, said
    return found[1].removeprefix("/objects/"), int(found[2], 16)


def found_in(qemu: BareQemu) -> tuple[PrivateRam, list[Considered]]:
    with ProcessMemory(qemu.pid) as process:
        search = search_of(process, f"pid:{qemu.pid}", command_line_of(process), {})
    return search.find(), search.seen


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ("pc", ""),
        ("pc", "-vga std -vga none"),
        ("q35", "-device VGA"),
        ("q35", "-device virtio-gpu-pci"),
        ("microvm", ""),
        ("pc", "-accel tcg,tb-size=64"),
        ("q35", "-accel tcg,split-wx=on,tb-size=64"),
        ("pc", "-mem-prealloc"),
        ("q35,mem-merge=off,dump-guest-core=off", ""),
        ("q35,memory-backend=m", "-object memory-backend-ram,id=m,size=64M"),
        ("q35,memory-backend=m", "-object memory-backend-memfd,id=m,size=64M,share=off"),
        ("q35,memory-backend=m", "-object memory-backend-ram,id=m,size=64M,reserve=off"),
    ],
)
def test_plain_ram(machine: str, words: str) -> None:
    with bare_qemu(*words.split(), machine=machine) as qemu:
        found, _ = found_in(qemu)
        name, base = place(qemu)
    assert [(each.name, each.base, each.size) for each in found.blocks] == [(name, base, 64 * MIB)]
    assert found.missing == []


def test_ram_in_a_file_that_is_mapped_privately(tmp_path: Path) -> None:
    words = ("-object", f"memory-backend-file,id=m,size=64M,mem-path={tmp_path}/ram,share=off")
    with bare_qemu(*words, machine="q35,memory-backend=m") as qemu:
        found, _ = found_in(qemu)
        assert [(each.name, each.base) for each in found.blocks] == [place(qemu)]


def test_two_nodes_of_one_size_are_both_found() -> None:
    words = f"{NODE.format('a')} {NODE.format('b')}".split()
    with bare_qemu(*words) as qemu:
        found, _ = found_in(qemu)
        bases = sorted(place(qemu, address)[1] for address in (0, 32 * MIB))
    assert [each.base for each in found.blocks] == bases
    assert [each.size for each in found.blocks] == [32 * MIB] * 2
    assert "a and b have one size" in found.notes[0]


def test_a_dimm_that_is_plugged_later_is_not_lost_in_silence() -> None:
    with bare_qemu(size="64M,slots=1,maxmem=1G") as qemu:
        qemu.qmp("object-add", **{"qom-type": "memory-backend-ram", "id": "d", "size": 128 * MIB})
        qemu.qmp("device_add", driver="pc-dimm", id="dimm", memdev="d")
        found, _ = found_in(qemu)
    assert [each.size for each in found.blocks] == [64 * MIB]
    assert "128 MiB" in found.notes[0]
    assert "plugged later" in found.notes[0]


def test_video_memory_of_the_size_of_ram_is_an_error_that_lists_both() -> None:
    with bare_qemu("-device", "VGA,vgamem_mb=64") as qemu:
        with pytest.raises(SourceError) as error:
            found_in(qemu)
        base = place(qemu)[1]
    assert "2 mappings can be pc.ram of 64 MiB" in str(error.value)
    assert f"{base:#x}-{base + 64 * MIB:#x} (64 MiB)" in str(error.value)
    assert "--range START-END" in str(error.value)


def test_a_domain_as_libvirt_starts_it() -> None:
    ram = json.dumps({"qom-type": "memory-backend-ram", "id": "pc.ram", "size": 64 * MIB})
    words = ("-name", "guest=web,debug-threads=on", "-object", ram, "-S")
    with bare_qemu(*words, machine="pc-q35-7.2,memory-backend=pc.ram", size="size=65536k") as qemu:
        found, seen = found_in(qemu)
        assert [(each.name, each.base) for each in found.blocks] == [place(qemu)]
    assert [each.verdict for each in seen].count("RAM") == 1
    assert all(each.why for each in seen)


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """40 huge pages for a test; the host's number is set back."""
    before = RESERVED.read_text()
    with contextlib.ExitStack() as stack:
        try:
            RESERVED.write_text("40")
        except OSError as error:
            pytest.skip(f"no huge pages: {error}")
        stack.callback(RESERVED.write_text, before)
        if int(RESERVED.read_text()) < 40:
            pytest.skip("too few huge pages: the host's memory is fragmented")
        yield


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages() -> None:
    backend = "memory-backend-memfd,id=m,size=64M,hugetlb=on,share=off"
    with bare_qemu("-object", backend, machine="q35,memory-backend=m") as qemu:
        found, _ = found_in(qemu)
        assert [(each.name, each.base) for each in found.blocks] == [place(qemu)]
    assert "private, of a file or in huge pages" in found.blocks[0].why


def test_all_of_a_private_vm_by_its_process_id() -> None:
    """The blocks are those that QMP names, and what is not RAM is not among them."""
    words = f"{NODE.format('a')} -object memory-backend-memfd,id=b,size=16M -numa node,memdev=b"
    with bare_qemu(*words.split(), "-accel", "tcg,split-wx=on,tb-size=32", size="48M") as qemu:
        qemu.qmp("stop")
        with open_vm(f"pid:{qemu.pid}") as vm:
            assert [(each.source.name, each.size) for each in vm.rams] == [
                ("memory-backend-memfd", 16 * MIB),
                ("a", 32 * MIB),
            ]
            assert vm.unreadable == []
        report = scan(f"pid:{qemu.pid}:a")
        assert [each.block.name for each in report.blocks] == ["a"]
        with pytest.raises(SourceError, match=r"no RAM named 'x'; there is .*'a'"):
            open_vm(f"pid:{qemu.pid}:x")


def test_a_range_by_hand() -> None:
    with bare_qemu("-device", "VGA,vgamem_mb=64") as qemu:
        qemu.qmp("stop")
        base = place(qemu)[1]
        report = scan(f"pid:{qemu.pid}:@{base:x}-{base + 64 * MIB:x}")
        whole = scan(f"qmp:{qemu.socket}")
    assert [each.block.name for each in report.blocks] == ["range"]
    assert bytes(report.blocks[0].zero) == bytes(whole.blocks[0].zero)
    assert report.total.undecided == 0


def test_qemu_says_that_it_is_no_confidential_vm() -> None:
    """The property that a confidential VM is refused by exists."""
    with bare_qemu() as qemu:
        assert qemu.qmp("qom-get", path="/machine", property="confidential-guest-support") == ""
