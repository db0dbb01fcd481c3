"""From QEMU's answers to open files, where the answers do not fit each other or the kernel's."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import ProcessMemory
from pagecheck.vmm.qemu.source import open_qemu
from tests.support.memory import Area

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20
MAP = """FlatView #0
 AS "memory", root: system
 Root memory region: system
  0000000000000000-00000000000fffff (prio 0, ram): mem0
  0000000000100000-0000000000ffffff (prio 0, ram): mem0 @0000000000100000
"""


class Answers:
    """In place of a `QemuMonitor` whose process cannot be seen."""

    def __init__(self, path: object) -> None:
        self.name = "qmp:x"
        self.peer_pid = 0
        self.backends = [{"id": "mem0", "size": 16 * MIB, "share": True}]
        self.later: list[dict[str, Any]] | None = None
        self.devices: list[dict[str, Any]] = []
        self.properties: dict[str, object] = {"mem-path": path}
        self.said = {"info mtree -f": MAP}
        self.places: Iterator[str] = iter(())
        self.at = "Host virtual address for 0x0 (mem0) is 0x7f0000000000\r\n"

    def execute(self, command: str, **arguments: Any) -> Any:
        if command == "query-memdev":
            answer, self.backends = self.backends, self.later or self.backends
            return answer
        if command == "query-memory-devices":
            return self.devices
        if command == "qom-get":
            if arguments["property"] not in self.properties:
                raise PeerError("Property not found")
            return self.properties[arguments["property"]]
        line = arguments["command-line"]
        return self.said[line] if line in self.said else next(self.places, self.at)


@pytest.fixture
def ram(shm_folder: Path) -> Path:
    path = shm_folder / "ram"
    path.touch()
    os.truncate(path, 16 * MIB)
    return path


def opened(answers: Answers, *, trust_path: bool = True) -> tuple[int, int, list[tuple[int, int]]]:
    """Start, size and regions of the one block that there must be."""
    found = open_qemu("qmp:x", answers, trust_path=trust_path)  # type: ignore[arg-type]
    (block,) = found.rams
    block.source.close()
    assert found.unreadable == []
    proved = answers.peer_pid and "does not map" not in "".join(found.notes)
    assert ["nothing proves" in note for note in found.notes] == ([] if proved else [True])
    return block.start, block.size, [(each[0], each[3]) for each in block.regions]


def test_a_file_by_its_path(ram: Path) -> None:
    assert opened(Answers(str(ram))) == (0, 16 * MIB, [(0, 0)])


def test_a_path_is_a_name_that_the_user_must_vouch_for(ram: Path) -> None:
    with pytest.raises(
        SourceError, match=rf"cannot prove which file .* mem0 .*vouch for {ram} with --trust-path$"
    ):
        opened(Answers(str(ram)), trust_path=False)


def test_an_offset_in_the_file(ram: Path) -> None:
    os.truncate(ram, 17 * MIB)
    answers = Answers(str(ram))
    answers.properties["offset"] = MIB
    assert opened(answers) == (MIB, 16 * MIB, [(0, MIB)])


@pytest.mark.parametrize("path", ["/dev/fd/0", "/proc/self/fd/0", "relative", None])
@pytest.mark.parametrize("trust_path", [True, False])
def test_what_is_no_path_to_trust(path: object, trust_path: bool) -> None:
    with pytest.raises(SourceError, match=r"cannot prove which .*or give QEMU a memory-backend-f"):
        opened(Answers(path), trust_path=trust_path)


@pytest.mark.parametrize("path", ["/dev/shm", "/dev/null", "/nowhere"])
def test_paths_that_lead_to_no_file(path: str) -> None:
    with pytest.raises(SourceError, match=rf"cannot prove .* and {path}.*in its pid namespace$"):
        opened(Answers(path))


def test_a_file_that_is_too_small(ram: Path) -> None:
    os.truncate(ram, 15 * MIB)
    with pytest.raises(SourceError, match="was truncated"):
        opened(Answers(str(ram)))


def test_one_block_that_cannot_be_seen_does_not_hide_the_other(ram: Path) -> None:
    answers = Answers(str(ram))
    answers.backends.append({"id": "mem1", "size": 16 * MIB, "share": False})
    second = "  0000000001000000-0000000001ffffff (prio 0, ram): mem1\n"
    answers.said["info mtree -f"] = MAP + second
    found = open_qemu("qmp:x", answers, trust_path=True)  # type: ignore[arg-type]
    (block,), (hidden,) = found.rams, found.unreadable
    block.source.close()
    assert (block.source.name, hidden.name, hidden.size) == ("mem0", "mem1", 16 * MIB)
    assert hidden.regions == ((16 * MIB, 16 * MIB, 0, 0),)
    assert re.search(r"mem1 is private to QEMU, whose memory cannot be read", hidden.why)


def test_private_ram(ram: Path) -> None:
    answers = Answers(str(ram))
    answers.backends[0]["share"] = False
    why = r"mem0 is private to QEMU, whose memory cannot be read: .* run pagecheck as root"
    with pytest.raises(SourceError, match=why):
        opened(answers)


def test_private_memory_of_a_process_that_is_not_qemu(ram: Path) -> None:
    """It relays the socket; a part of its own memory is where the RAM is in QEMU's."""
    answers = Answers(str(ram))
    answers.backends[0]["share"] = False
    answers.peer_pid = os.getpid()
    with Area(16 * MIB // 4096) as area:
        answers.at = f"Host virtual address for 0x0 (mem0) is {area.base:#x}\r\n"
        (block,) = open_qemu("qmp:x", answers).rams  # type: ignore[arg-type]
        block.source.close()
        area.unmap(7, 1)
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(SourceError, match="which listens, does not map all of it as private"):
            open_qemu("qmp:x", answers)  # type: ignore[arg-type]
        assert set(os.listdir("/proc/self/fd")) == before


def test_a_map_without_ram(ram: Path) -> None:
    answers = Answers(str(ram))
    answers.said["info mtree -f"] = "nothing"
    with pytest.raises(SourceError, match="shows none of its 1 memory backends"):
        opened(answers)


@pytest.mark.parametrize("at", ["No memory is mapped at address 0x0\r\n", "(pc.rom) is 0x1000"])
def test_ram_that_is_gone_when_its_address_is_asked(ram: Path, at: str) -> None:
    answers = Answers(str(ram))
    answers.at = f"Host virtual address for 0x0 {at}" if at.startswith("(") else at
    with pytest.raises(SourceError, match=r"not at 0x0 of guest memory any more .*try again"):
        opened(answers)


def test_ram_that_is_plugged_meanwhile(ram: Path) -> None:
    answers = Answers(str(ram))
    answers.later = [*answers.backends, {"id": "mem1", "size": MIB, "share": True}]
    with pytest.raises(SourceError, match="plugged or unplugged while"):
        opened(answers)


def test_a_device_that_is_not_in_the_map(ram: Path) -> None:
    answers = Answers(str(ram))
    device = {"memdev": "/objects/mem1", "id": "dimm1", "size": MIB}
    answers.devices = [{"type": "dimm", "data": device}]
    with pytest.raises(SourceError, match="'dimm1' is not in guest memory"):
        opened(answers)
    device["size"] = 0  # a virtio-mem device with nothing plugged
    assert opened(answers)[1] == 16 * MIB


def test_a_process_that_is_not_qemu(ram: Path) -> None:
    answers = Answers(str(ram))
    answers.peer_pid = os.getpid()
    assert opened(answers)[1] == 16 * MIB
    with pytest.raises(SourceError, match=f"process {os.getpid()}, which listens, does not map"):
        opened(answers, trust_path=False)


def test_a_trusted_path_that_is_provably_another_file(
    ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing leads to the file, but its numbers are known."""

    def refuse(_self: ProcessMemory, _mapping: Mapping) -> None:
        raise SourceError("no way")

    monkeypatch.setattr(ProcessMemory, "open_file", refuse)
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 16 * MIB) as memory:
        at = (ctypes.c_char * 1).from_buffer(memory)
        answers = Answers(str(ram))
        answers.peer_pid = os.getpid()
        answers.at = f"Host virtual address for 0x0 (mem0) is {ctypes.addressof(at):#x}\r\n"
        assert opened(answers)[1] == 16 * MIB
        ram.rename(ram.with_name("old"))
        ram.write_bytes(bytes(16 * MIB))
        with pytest.raises(SourceError, match=rf"no way, and {ram} is another file by now; run"):
            opened(answers)
        del at


def test_ram_that_moves_meanwhile(ram: Path) -> None:
    """A DIMM that was exchanged for one of the same id and size."""
    answers = Answers(str(ram))
    answers.places = iter([answers.at, answers.at.replace("7f", "7e")])
    with pytest.raises(SourceError, match="plugged or unplugged while"):
        opened(answers)


BACKEND = {"id": "mem0", "size": 16 * MIB, "share": True}


@pytest.mark.parametrize(
    "backends",
    [
        5,
        None,
        {},
        [5],
        [[]],
        [{"id": "mem0", "share": True}],
        [{**BACKEND, "size": "16M"}],
        [{**BACKEND, "size": -1}],
        [{**BACKEND, "size": 1 << 64}],
        [{**BACKEND, "size": True}],
        [{**BACKEND, "id": 5}],
        [{**BACKEND, "share": "on"}],
        [BACKEND, BACKEND],
    ],
)
def test_backends_of_the_wrong_shape(ram: Path, backends: Any) -> None:
    answers = Answers(str(ram))
    answers.backends = backends
    with pytest.raises(PeerError, match=r"^qmp:x: the answer to query-memdev.*: must be"):
        opened(answers)


@pytest.mark.parametrize(
    "devices",
    [
        5,
        {},
        [5],
        [{}],
        [{"data": []}],
        [{"data": {"memdev": 5, "size": 1}}],
        [{"data": {"memdev": "/objects/mem1", "size": "1"}}],
        [{"data": {"memdev": "/objects/mem1", "size": 1, "id": {}}}],
    ],
)
def test_memory_devices_of_the_wrong_shape(ram: Path, devices: Any) -> None:
    answers = Answers(str(ram))
    answers.devices = devices
    with pytest.raises(PeerError, match=r"^qmp:x: the answer to query-memory-devices.*: must be"):
        opened(answers)


@pytest.mark.parametrize("text", [5, None, ["FlatView"], {}])
def test_a_map_that_is_no_text(ram: Path, text: Any) -> None:
    answers = Answers(str(ram))
    answers.said["info mtree -f"] = text
    with pytest.raises(PeerError, match=r"^qmp:x: the answer to human-monitor-command: must be"):
        opened(answers)


@pytest.mark.parametrize(
    "line",
    [
        "  0000000000100000-00000000000fffff (prio 0, ram): mem0",
        "  0000000000000000-0000000001000000 (prio 0, ram): mem0",
        "  0000000000000000-00000000000fffff (prio 0, ram): mem0 @0000000001000000",
        "  ffffffffffff0000-1000000000000ffff (prio 0, ram): mem0",
        f"  {'0' * 100_000}-{'f' * 100_000} (prio 0, ram): mem0",
    ],
)
def test_a_map_of_more_than_there_is(ram: Path, line: str) -> None:
    answers = Answers(str(ram))
    answers.said["info mtree -f"] = f'FlatView #0\n AS "memory", root: system\n{line}\n'
    with pytest.raises(PeerError, match=r"^qmp:x: QEMU's memory map shows"):
        opened(answers)
