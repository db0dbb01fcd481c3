"""Which private mappings are taken for guest RAM, from the text of maps and of command lines."""

import shlex
from collections.abc import Callable

import pytest

from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm.find.candidates import mapping_of_range, parse_range
from pagecheck.vmm.find.considered import Row
from pagecheck.vmm.find.search import PrivateRam, Search
from pagecheck.vmm.options.command_line import read_command_line
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.process.maps import parse_maps

MIB = 1 << 20
GIB = 1 << 30
BASE = 0x7F00_0000_0000

# "perms size-in-MiB flags path-or-nothing"; "gap" leaves a page free, "@N" goes to BASE + N MiB.
QEMU_RAM = "rw-p {} rd wr mr mw me dc ac hg mg"
GUARD = "---p 0.00390625 mr mw me"
TRANSLATED = "rwxp {} rd wr ex mr mw me ac hg"
PLAIN = "rw-p {} rd wr mr mw me ac"
RUST_RAM = "rw-p {} rd wr mr mw me nr"


def rows(*lines: str) -> list[Row]:
    found: list[Row] = []
    at = BASE
    for line in lines:
        if line == "gap":
            at += 4096
            continue
        if line.startswith("@"):
            at = BASE + int(line[1:]) * MIB
            continue
        perms, size, *rest = line.split()
        flags = [each for each in rest if len(each) == 2]
        path = " ".join(each for each in rest if len(each) != 2)
        end = at + int(float(size) * MIB)
        inode = f"{1 + sum(map(ord, path))}" if path and not path.startswith("[") else "0"
        device = "00:00" if inode == "0" else "00:01"
        maps = f"{at:x}-{end:x} {perms} 00000000 {device} {inode} {path}\n"
        found.append((parse_maps(maps)[0], flags))
        at = end
    return found


def said_by(line: str) -> CommandLine:
    """What a command line says; a "vmm" is an unknown one with a VM of KVM's."""
    return CommandLine("kvm") if line == "vmm" else read_command_line("", shlex.split(line))


def search(line: str, *lines: str, shared: str = "") -> PrivateRam:
    blocks = {(1, 1): shared} if shared else {}
    return Search("pid:7", said_by(line), rows(*lines), blocks).find()


def sizes(found: PrivateRam) -> list[tuple[str, int]]:
    return [(each.name, each.size // MIB) for each in found.blocks]


def verdicts(line: str, *lines: str) -> list[tuple[str, str]]:
    done = Search("pid:7", said_by(line), rows(*lines), {})
    done.find()
    return [(each.verdict, each.why) for each in done.seen]


def test_plain_qemu() -> None:
    found = search("qemu-kvm -m 256M", PLAIN.format(20), "gap", QEMU_RAM.format(256), GUARD)
    assert sizes(found) == [("pc.ram", 256)]
    assert found.missing == []
    assert found.notes == []
    assert found.blocks[0].base == BASE + 20 * MIB + 4096
    assert found.blocks[0].why == (
        *("has the 256 MiB of pc.ram", "private"),
        "fork does not copy it (dc), as with all of QEMU's RAM blocks",
    )


def test_a_translators_buffer_of_the_same_size_is_not_ram() -> None:
    found = search("qemu-kvm -m 256M", TRANSLATED.format(256), "gap", QEMU_RAM.format(256))
    assert sizes(found) == [("pc.ram", 256)]


def test_memory_that_fork_copies_is_not_qemus_ram() -> None:
    found = search("qemu-kvm -m 64M", PLAIN.format(64), "gap", QEMU_RAM.format(64))
    assert sizes(found) == [("pc.ram", 64)]
    with pytest.raises(SourceError, match="no private mapping has the 64 MiB"):
        search("qemu-kvm -m 64M", PLAIN.format(64))


def test_flags_that_were_not_asked_for_rule_nothing_out() -> None:
    mappings = [(each, ()) for each, _ in rows(QEMU_RAM.format(64))]
    found = Search("", read_command_line("", ["qemu-kvm", "-m", "64M"]), mappings).find()
    assert sizes(found) == [("pc.ram", 64)]


def test_video_memory_is_not_ram() -> None:
    lines = (QEMU_RAM.format(16), "gap", QEMU_RAM.format(256))
    assert sizes(search("qemu-kvm -m 256M", *lines)) == [("pc.ram", 256)]
    assert verdicts("qemu-kvm -m 256M", *lines)[0] == (
        "unknown",
        "video memory, or RAM that was plugged later",
    )


def test_video_memory_of_the_size_of_ram_cannot_be_told_apart() -> None:
    with pytest.raises(SourceError) as error:
        search("qemu-kvm -m 16M", QEMU_RAM.format(16), "gap", QEMU_RAM.format(16))
    assert str(error.value) == (
        "pid:7: 2 mappings can be pc.ram of 16 MiB, and nothing tells them apart: "
        f"{BASE:#x}-{BASE + 16 * MIB:#x} (16 MiB), "
        f"{BASE + 16 * MIB + 4096:#x}-{BASE + 32 * MIB + 4096:#x} (16 MiB); "
        "name one with --range START-END, or give qmp:SOCKET"
    )


def test_ram_that_was_plugged_later_is_said_to_be_left_out() -> None:
    found = search("qemu-kvm -m 256M", QEMU_RAM.format(256), "gap", QEMU_RAM.format(512))
    assert sizes(found) == [("pc.ram", 256)]
    assert len(found.notes) == 1
    assert "(512 MiB) is private memory that may be guest RAM" in found.notes[0]


TWO_NODES = (
    "qemu-kvm -m 256M -object memory-backend-ram,id=a,size=128M "
    "-object memory-backend-ram,id=b,size=128M -numa node,memdev=a -numa node,memdev=b"
)


def test_two_nodes_of_one_size_are_two_blocks() -> None:
    found = search(TWO_NODES, QEMU_RAM.format(128), GUARD, QEMU_RAM.format(128), GUARD)
    assert sizes(found) == [("ram", 128), ("ram-2", 128)]
    assert found.notes == [
        "pid:7: a and b have one size, and a process id does not show which of the mappings is "
        "which; qmp: shows it"
    ]


def test_one_of_two_nodes_that_is_not_there_is_said_to_be_missing() -> None:
    found = search(TWO_NODES, QEMU_RAM.format(128))
    assert sizes(found) == [("ram", 128)]
    assert [each.name for each in found.missing] == ["a or b"]
    assert found.missing[0].size == 128 * MIB
    assert "no private mapping has the 128 MiB of a or b" in found.missing[0].why


def test_three_that_can_be_two_nodes() -> None:
    with pytest.raises(SourceError, match="3 mappings can be a and b of 128 MiB"):
        search(TWO_NODES, *[QEMU_RAM.format(128), GUARD] * 3)


def test_a_shared_and_a_private_node() -> None:
    line = TWO_NODES.replace("id=b,", "id=b,share=on,")
    found = search(line, QEMU_RAM.format(128), GUARD, shared="memory-backend-memfd")
    assert sizes(found) == [("a", 128)]
    assert found.missing == []


def test_all_shared_leaves_nothing_to_look_for() -> None:
    line = "qemu-kvm -m 256M -object memory-backend-memfd,id=m,size=256M -machine memory-backend=m"
    found = search(line, QEMU_RAM.format(16), shared="memory-backend-memfd")
    assert found == PrivateRam([], [], [])


def test_names_differ_from_those_of_shared_blocks() -> None:
    assert sizes(search("qemu-kvm -m 256M", QEMU_RAM.format(256), shared="pc.ram")) == [
        ("pc.ram-2", 256)
    ]


def test_a_default_that_is_not_there_is_of_another_machine() -> None:
    assert sizes(search("qemu-system-arm", QEMU_RAM.format(1024))) == [("ram", 1024)]
    found = search("qemu-system-arm", QEMU_RAM.format(16), shared="mem0")
    assert found.blocks == []
    assert found.missing == []


def test_what_has_a_size_is_missing_beside_a_default_too() -> None:
    line = (
        "qemu-kvm -m slots=1,maxmem=1G -object memory-backend-ram,id=d,size=64M "
        "-device pc-dimm,memdev=d"
    )
    found = search(line, QEMU_RAM.format(128), "gap", QEMU_RAM.format(96))
    assert sizes(found) == [("pc.ram", 128)]
    assert [each.name for each in found.missing] == ["d"]
    assert "(96 MiB) is larger and may hold it" in found.missing[0].why


def test_huge_pages_of_hugetlbfs() -> None:
    line = (
        "qemu-kvm -m 255M -object memory-backend-memfd,id=m,size=255M,hugetlb=on,share=off "
        "-machine memory-backend=m"
    )
    found = search(line, "rw-p 256 rd wr mr mw me de ht /dev/hugepages/qemu")
    assert sizes(found) == [("m", 255)]
    assert "private, of a file or in huge pages" in found.blocks[0].why


def test_a_block_whose_middle_is_protected_is_one_block() -> None:
    lines = (QEMU_RAM.format(100), "---p 56 mr mw me dc hg", QEMU_RAM.format(100), GUARD)
    found = search("qemu-kvm -m 256M", *lines)
    assert sizes(found) == [("pc.ram", 256)]
    assert found.blocks[0].base == BASE
    assert "together with its neighbours" in found.blocks[0].why[0]
    assert verdicts("qemu-kvm -m 256M", *lines)[0][0] == "RAM"


def test_video_memory_is_not_taken_for_ram_that_is_in_pieces() -> None:
    """A part of the RAM is registered for userfaultfd, say, and so a mapping of its own."""
    parts = [QEMU_RAM.format(40), QEMU_RAM.format(24) + " um", GUARD]
    with pytest.raises(SourceError, match=r"2 mappings can be pc\.ram of 64 MiB"):
        search("qemu-kvm -m 64M", *parts, QEMU_RAM.format(64))


def test_as_many_mappings_as_a_process_may_have() -> None:
    """Each is a neighbour of the next, and no part of them has the size; not even in a minute where
    each is compared with all that follow."""
    many = [("rw-p", "r--p")[number % 2] + " 1 dc" for number in range(65_530)]
    with pytest.raises(SourceError, match="no private mapping has the"):
        search("qemu-kvm -m 65531M", *many)


def test_neighbours_that_are_not_qemus_blocks_are_not_ram() -> None:
    parts = [PLAIN.format(40), PLAIN.format(24) + " lo", GUARD]
    found = search("qemu-kvm -m 64M", *parts, QEMU_RAM.format(64))
    assert [each.base for each in found.blocks] == [BASE + 64 * MIB + 4096]


def test_neighbours_that_fit_in_two_ways() -> None:
    parts = [QEMU_RAM.format(100), QEMU_RAM.format(56) + " um", QEMU_RAM.format(100)]
    with pytest.raises(SourceError, match="2 mappings can be pc\\.ram of 156 MiB"):
        search("qemu-kvm -m 156M", *parts)


def test_a_block_inside_a_larger_mapping_is_not_guessed() -> None:
    with pytest.raises(SourceError, match=r"no private .* \(300 MiB\) is larger and may hold it"):
        search("cloud-hypervisor --kernel k --memory size=256M", RUST_RAM.format(300))


def test_the_largest_first_and_each_by_its_name() -> None:
    line = (
        "cloud-hypervisor --kernel k --memory size=0 --memory-zone id=a,size=64M id=b,size=128M "
        "id=c,size=32M,shared=on"
    )
    found = search(line, RUST_RAM.format(64), "gap", RUST_RAM.format(128), shared="ch_ram")
    assert sizes(found) == [("a", 64), ("b", 128)]


@pytest.mark.parametrize("below", [3072, 3328])
def test_firecracker_splits_large_ram(below: int) -> None:
    lines = (RUST_RAM.format(5120 - below), "gap", PLAIN.format(64), "gap", RUST_RAM.format(below))
    said = read_command_line("", ["firecracker", "--config-file", "x"], _file_of(5120))
    found = Search("pid:7", said, rows(*lines), {}).find()
    assert sizes(found) == [("ram", 5120 - below), ("ram-2", below)]
    assert found.missing == []
    assert sizes(search("firecracker", *lines)) == sizes(found)


def test_cloud_hypervisor_splits_large_ram_into_equal_sides() -> None:
    lines = (RUST_RAM.format(3072), "gap", RUST_RAM.format(3072))
    found = search("cloud-hypervisor --kernel k --memory size=6G", *lines)
    assert sizes(found) == [("ram", 3072), ("ram-2", 3072)]


def test_two_sides_that_the_kernel_merged_are_one_block() -> None:
    found = search("cloud-hypervisor --kernel k --memory size=4G", RUST_RAM.format(4096))
    assert sizes(found) == [("ram", 4096)]


def test_cloud_hypervisors_mark_decides() -> None:
    lines = (PLAIN.format(512), "gap", RUST_RAM.format(512))
    found = search("cloud-hypervisor --kernel k", *lines)
    assert [each.base for each in found.blocks] == [BASE + 512 * MIB + 4096]
    with pytest.raises(SourceError, match="2 mappings can be ram of 512 MiB"):
        search("cloud-hypervisor --kernel k", PLAIN.format(512), "gap", PLAIN.format(512))


def _file_of(mebibytes: int) -> Callable[[str], str]:
    return lambda _path: f'{{"machine-config": {{"mem_size_mib": {mebibytes}}}}}'


def test_firecracker_of_unknown_size_by_its_mark() -> None:
    found = search("firecracker --id x", PLAIN.format(32), "gap", RUST_RAM.format(512))
    assert sizes(found) == [("ram", 512)]
    assert "nothing else of 16 MiB or more" in found.blocks[0].why[0]


def test_a_restored_firecracker_maps_a_file_privately() -> None:
    found = search("firecracker --id x", "rw-p 512 rd wr mr mw me nr /snap/mem")
    assert sizes(found) == [("ram", 512)]


def test_a_programs_data_is_not_ram() -> None:
    program = "r-xp 20 rd ex /usr/bin/vmm"
    data = "rw-p 20 rd wr /usr/bin/vmm"
    found = search("vmm", program, data, "gap", PLAIN.format(512))
    assert sizes(found) == [("ram", 512)]


def test_a_translators_buffer_that_is_mapped_twice_is_not_ram() -> None:
    lines = ("r-xs 256 /memfd:tcg-jit", "gap", "rw-s 256 /memfd:tcg-jit", QEMU_RAM.format(256))
    assert verdicts("qemu-kvm -m 256M", *lines)[1] == (
        "not RAM",
        "of a file that is mapped executable too: a program, or what a translator made",
    )


def test_shared_blocks_are_explained_too() -> None:
    line = rows("rw-s 8 /memfd:ch_ram", PLAIN.format(512))
    place = line[0][0].dev, line[0][0].inode
    done = Search("pid:7", read_command_line("", ["vmm"]), line, {place: "ch_ram"})
    done.find()
    assert [(each.verdict, each.why) for each in done.seen] == [
        ("RAM", "shared memory: ch_ram"),
        ("unknown", "nothing names it"),
    ]


def test_a_mallocs_arena_is_not_ram() -> None:
    lines = ("@1", PLAIN.format(512), "@1024", PLAIN.format(40), "---p 24 mr mw me nr")
    assert sizes(search("vmm", *lines)) == [("ram", 512)]
    kinds = verdicts("vmm", *lines)
    assert kinds[1] == ("not RAM", "an arena of malloc's")


@pytest.mark.parametrize("path", ["[heap]", "[stack]", "[anon: glibc: malloc arena]"])
def test_a_heap_is_not_ram(path: str) -> None:
    assert sizes(search("vmm", f"rw-p 600 {path}", "gap", PLAIN.format(512))) == [("ram", 512)]


def test_a_named_anonymous_mapping_may_be_ram() -> None:
    assert sizes(search("vmm", "rw-p 512 [anon:guest]")) == [("ram", 512)]


def test_of_what_is_no_vmm_nothing_is_taken() -> None:
    with pytest.raises(SourceError) as error:
        search("python", PLAIN.format(512))
    assert str(error.value) == (
        "pid:7: is not a VMM that pagecheck knows, and has no VM of KVM's, so that nothing says "
        f"whether {BASE:#x}-{BASE + 512 * MIB:#x} (512 MiB) is guest RAM; name it with --range"
    )


def test_of_an_unknown_vmm_only_what_is_alone_is_taken() -> None:
    lines = (PLAIN.format(512), "gap", PLAIN.format(64))
    with pytest.raises(SourceError) as error:
        search("vmm", *lines)
    assert "2 mappings can be guest RAM" in str(error.value)
    assert "qmp:" not in str(error.value)
    with pytest.raises(SourceError, match=r"12 mappings .* and 4 more; name one"):
        search("vmm", *[PLAIN.format(64), "gap"] * 12)


def test_private_memory_beside_shared_ram_of_an_unknown_vmm_is_left_out_with_a_note() -> None:
    found = search("vmm", PLAIN.format(512), shared="dimm")
    assert found.blocks == []
    assert len(found.notes) == 1
    assert "(512 MiB) is private memory that may be guest RAM" in found.notes[0]


def test_ambiguous_mappings_are_explained() -> None:
    said = read_command_line("", ["vmm"])
    done = Search("pid:7", said, rows(PLAIN.format(512), "gap", PLAIN.format(64)), {})
    with pytest.raises(SourceError):
        done.find()
    assert {each.why for each in done.seen} == {"one of 2 that can be guest RAM"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("vmm", "16 MiB or more that could be guest RAM; give the pid of the VMM itself"),
        ("firecracker", "16 MiB or more that could be guest RAM; its VM may not have been started"),
        ("cloud-hypervisor --kernel k --memory size=1G,shared=on", "maps none of tmpfs, a memfd"),
        ("VBoxHeadless --startvm x", "VirtualBox's RAM belongs to its driver"),
        ("crosvm run --mem 512", "crosvm's RAM is shared"),
        ("qemu-kvm -m 1G", "no private mapping has the 1024 MiB of pc.ram"),
    ],
)
def test_no_ram_at_all(line: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        search(line, PLAIN.format(8))


def test_verdicts_of_what_cannot_be_ram() -> None:
    lines = (
        *("rw-s 20 /memfd:x", "r--p 20", "---p 20", "r-xp 20 /bin/x", "rw-p 20 [vvar]"),
        *("gap", PLAIN.format(20)),
    )
    assert verdicts("vmm", *lines) == [
        ("not RAM", "shared, but no memory of the kinds that guest RAM is made of"),
        ("not RAM", "cannot be written, or is reserved only"),
        ("not RAM", "cannot be written, or is reserved only"),
        ("not RAM", "executable: code, or what a translator made"),
        ("not RAM", "the kernel's"),
        ("RAM", "nothing else of 16 MiB or more can be guest RAM; private"),
    ]


@pytest.mark.parametrize(
    "text",
    ["7f0000000000-7f0000100000", "0x7f0000000000-0x7f0000100000", "7F0000000000-7F0000100000"],
)
def test_ranges(text: str) -> None:
    assert parse_range(text) == (BASE, BASE + MIB)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "START-END"),
        ("1000", "START-END"),
        ("-1000-2000", "START-END"),
        ("1000-2000-3000", "START-END"),
        ("xyz-1000", "START-END"),
        ("1000-" + "f" * 17, "START-END"),
        ("2000-1000", "END is exclusive"),
        ("1000-1000", "END is exclusive"),
        ("1001-2000", "whole pages"),
        ("1000-2001", "whole pages"),
    ],
)
def test_ranges_that_are_none(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_range(text)


def test_a_range_by_hand() -> None:
    mappings = [each for each, _ in rows(PLAIN.format(4), "rw-p 4 rd wr mr mw me nh")]
    block, mapping = mapping_of_range("pid:7", mappings, (BASE + MIB, BASE + 6 * MIB))
    assert (block.name, block.base, block.size) == ("range", BASE + MIB, 5 * MIB)
    assert mapping == mappings[0]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["@64", PLAIN.format(4)], "nothing is mapped there"),
        ([PLAIN.format(1), "gap", PLAIN.format(4)], "not inside one mapping"),
        ([PLAIN.format(1), "rw-p 4 /memfd:x"], "not inside one mapping"),
        ([PLAIN.format(1), "rw-s 4 /memfd:x"], "not inside one mapping"),
        (["rw-p 1 /aaa", "rw-p 1 /aaa"], "not inside one mapping"),  # both begin at offset 0
        ([PLAIN.format(1), "---p 4"], r"cannot be read \(---p\)"),
    ],
)
def test_a_range_that_is_not_one_mapping(lines: list[str], why: str) -> None:
    mappings = [each for each, _ in rows(*lines)]
    with pytest.raises(SourceError, match=why):
        mapping_of_range("pid:7", mappings, (BASE, BASE + 2 * MIB))
