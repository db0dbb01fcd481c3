"""The user's command for QEMU: what is changed for a restore, and what stays as it was written."""

from __future__ import annotations

import shlex

import pytest

from pagecheck.errors import UsageError
from pagecheck.snapshot.command_words import split, with_keys
from pagecheck.snapshot.qemu_command import RamFile, require_startable, with_ram

MIB = 1 << 20
RAM = RamFile("pc.ram", 256 * MIB, "/dev/shm/vm1")
NODES = (RamFile("node0", 128 * MIB, "/r/0"), RamFile("node1", 128 * MIB, "/r/1"))
FILE = "memory-backend-file,id=pc.ram,size=268435456,mem-path=/dev/shm/vm1,share=on"


def words(line: str) -> list[str]:
    return shlex.split(f"qemu-system-x86_64 {line}")


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("-m 256M", f"-m 256M -machine memory-backend=pc.ram -object {FILE}"),
        ("-machine q35 -m 256", f"-machine q35,memory-backend=pc.ram -m 256 -object {FILE}"),
        ("-M q35 -m 256", f"-M q35,memory-backend=pc.ram -m 256 -object {FILE}"),
        ("--machine q35", f"--machine q35,memory-backend=pc.ram -object {FILE}"),
        (
            "-machine type=q35,accel=tcg",
            f"-machine type=q35,accel=tcg,memory-backend=pc.ram -object {FILE}",
        ),
        (
            "-machine q35 -machine accel=kvm -nographic",
            f"-machine q35 -machine accel=kvm,memory-backend=pc.ram -nographic -object {FILE}",
        ),
        (
            "-machine q35,memory-backend=pc.ram -object memory-backend-ram,id=pc.ram,size=256M",
            f"-machine q35,memory-backend=pc.ram -object {FILE}",
        ),
        (
            "-machine memory-backend=pc.ram,type=pc -object "
            "memory-backend-memfd,id=pc.ram,size=256M,share=on,hugetlb=on,merge=off,policy=bind,"
            "host-nodes=0,seal=off",
            f"-machine memory-backend=pc.ram,type=pc -object {FILE},host-nodes=0,merge=off,"
            "policy=bind",
        ),
        (
            """-object '{"qom-type":"memory-backend-ram","id":"pc.ram","size":1,"merge":false}'"""
            " -machine pc,memory-backend=pc.ram",
            f"-object {FILE},merge=off -machine pc,memory-backend=pc.ram",
        ),
        (
            "-append '-machine x -m 1' disk.img -snapshot other.img",
            "-append '-machine x -m 1' disk.img -snapshot other.img "
            f"-machine memory-backend=pc.ram -object {FILE}",
        ),
        (
            "-nodefaults -S -drive file=a,,b.img,if=virtio -object rng-random,id=r,filename=/r",
            "-nodefaults -S -drive file=a,,b.img,if=virtio -object rng-random,id=r,filename=/r "
            f"-machine memory-backend=pc.ram -object {FILE}",
        ),
    ],
)
def test_the_ram_is_replaced_and_nothing_else(given: str, made: str) -> None:
    assert with_ram(words(given), [RAM], share=True) == words(made)


def test_commas_in_a_path_are_doubled() -> None:
    made = with_ram(words("-m 256"), [RAM._replace(path="/a,b=c")], share=False)
    assert made[-1].endswith("mem-path=/a,,b=c,share=off")


def test_the_nodes_of_numa_keep_their_places() -> None:
    given = (
        "-machine q35 -m 256 -object memory-backend-ram,id=node0,size=128M "
        "-object memory-backend-memfd,id=node1,size=128M,share=on "
        "-numa node,memdev=node0 -numa node,memdev=node1"
    )
    first, second = (
        f"memory-backend-file,id={each.name},size={each.size},mem-path={each.path},share=on"
        for each in NODES
    )
    assert with_ram(words(given), NODES, share=True) == words(
        f"-machine q35 -m 256 -object {first} -object {second} "
        "-numa node,memdev=node0 -numa node,memdev=node1"
    )


def test_a_dimm_is_replaced_beside_the_machines_own() -> None:
    dimm = RamFile("d1", MIB, "/r/d1")
    given = "-m 256,slots=1,maxmem=1G -object memory-backend-ram,id=d1,size=1M"
    given += " -device pc-dimm,memdev=d1"
    made = with_ram(words(given), [RAM, dimm], share=True)
    assert made[4] == "memory-backend-file,id=d1,size=1048576,mem-path=/r/d1,share=on"
    assert made[-3:] == ["memory-backend=pc.ram", "-object", FILE]


@pytest.mark.parametrize(
    ("given", "files", "wrong"),
    [
        ("-machine q35,memory-backend=mem0", [RAM], "its RAM block is mem0, the snapshot has pc"),
        ("-machine q35,memory-backend=pc.ram", [RAM], "has no -object of that id"),
        ("-m 256", NODES, "names no memory backend, and the snapshot has node0, node1"),
        (
            "-object memory-backend-ram,id=node0,size=1 -numa node,memdev=node0",
            NODES,
            "has no RAM block node1",
        ),
        ("-device pc-dimm,memdev=d1", [RAM], "its RAM block is d1"),
    ],
)
def test_other_blocks_are_refused_by_name(given: str, files: list[RamFile], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong) as error:
        with_ram(words(given), files, share=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ([], "is nothing"),
        (["sh", "-c", "x"], "must begin with a QEMU"),
        (words("-incoming defer"), "drop -incoming"),
        (words("-loadvm a"), "drop -loadvm"),
        (words("-daemonize"), "drop -daemonize"),
        (words("--preconfig"), "drop -preconfig"),
        (words("-mem-path /dev/hugepages"), "drop -mem-path"),
    ],
)
def test_what_a_restore_decides_is_not_the_users(command: list[str], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        require_startable(command)


def test_a_command_as_for_a_first_start_is_taken() -> None:
    require_startable(["/opt/q/qemu-system-aarch64", "-M", "virt", "-append", "-incoming", "d.img"])


def test_words_are_told_apart_as_qemu_does() -> None:
    line = "-S a.img --name -x -nographic b.img -m 1G -kernel -usb"
    found = [(each.name, each.value) for each in split(words(line))]
    assert found == [
        ("S", ""),
        ("hda", "a.img"),
        ("name", "-x"),
        ("nographic", ""),
        ("hda", "b.img"),
        ("m", "1G"),
        ("kernel", ""),
        ("usb", ""),
    ]


def test_a_key_is_set_in_its_place_or_at_the_end() -> None:
    assert with_keys("file=a,,b,if=virtio", file="c,d") == "file=c,,d,if=virtio"
    assert with_keys("if=virtio", read_only="on") == "if=virtio,read-only=on"
