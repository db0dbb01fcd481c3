"""What a false or broken service answers to `save` is refused as its fault, and what a first copy
left in a file is found."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import PeerError
from pagecheck.model import RamBlock
from pagecheck.service.remote_save import data_of_zero_pages, taken_of
from pagecheck.service.replies import RemoteBlock
from tests.unit.test_replies import memfd

PAGES = 130
BLOCK = RemoteBlock(3, RamBlock("ram", PAGES * 4096, 4096), ())
ZERO = (0, 1, 64, 129)
STATE = b"QEVM and so on"
COUNTS = {
    "pages": PAGES,
    "zero": len(ZERO),
    "hole": 2,
    "normal": PAGES - len(ZERO),
    "undecided": 0,
    "unchanged": 0,
    "swapped": 0,
}
GOOD: dict[str, Any] = {
    "blocks": [
        {
            "block": 3,
            "name": "ram",
            "size": PAGES * 4096,
            "page_size": 4096,
            "shared": True,
            "counts": COUNTS,
            "zero": {"offset": 0, "bytes": 24},
        }
    ],
    "created": "2026-01-31T12:00:00Z",
    "engine": "cpu",
    "kernel": "avx2",
    "channels": 2,
    "machine": {
        "vmm": "qemu",
        "vmm_version": "7.2.0",
        "machine_type": "pc",
        "arch": "x86_64",
        "vcpus": 1,
        "command_line": ["qemu"],
        "more": 1,
    },
    "state_bytes": len(STATE),
    "disks": [],
    "pause": {"seconds": 0.1, "stood_still": True, "expired": False, "stopped_by_us": True},
    "pause_without_live": None,
    "notes": [],
}


def bitmap(*pages: int) -> bytes:
    return sum(1 << page for page in pages).to_bytes(24, "little")


@contextlib.contextmanager
def memory(*contents: bytes) -> Iterator[list[int]]:
    fds = [memfd(each) for each in contents]
    yield fds
    for fd in fds:
        os.close(fd)


def test_a_good_answer() -> None:
    with memory(bitmap(*ZERO), STATE) as fds:
        taken = taken_of(GOOD, fds, [BLOCK])
    counts, zero, shared = taken.blocks[0]
    assert (counts.zero, bytes(zero), shared) == (4, bitmap(*ZERO), True)
    assert taken.state == STATE
    assert taken.machine.other == {"more": 1}
    assert taken.pause.stood_still


def changed(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(reply: dict[str, Any]) -> None:
        for name in path[:-1]:
            reply = reply[name]
        reply[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("blocks", value=[]),
        changed("blocks", value=7),
        changed("blocks", 0, "block", value=4),
        changed("blocks", 0, "shared", value=1),
        changed("blocks", 0, "counts", "undecided", value=1),
        changed("blocks", 0, "counts", "zero", value=5),
        changed("blocks", 0, "counts", "normal", value=PAGES),
        changed("blocks", 0, "counts", "pages", value=PAGES - 1),
        changed("blocks", 0, "counts", "hole", value=5),
        changed("blocks", 0, "zero", "bytes", value=16),
        changed("blocks", 0, "zero", "offset", value=8),
        changed("blocks", 0, "zero", "offset", value=-1),
        changed("state_bytes", value=len(STATE) + 1),
        changed("state_bytes", value=None),
        changed("state_bytes", value=0),
        changed("machine", value=None),
        changed("machine", "vmm", value=7),
        changed("machine", "command_line", value="qemu"),
        changed("disks", value=None),
        changed("disks", value=[{"device": "d"}]),
        changed("pause", value=None),
        changed("pause", "stood_still", value=False),
        changed("pause_without_live", value="1"),
        changed("created", value=7),
        changed("created", value="now"),
        changed("channels", value=-1),
        changed("notes", value=[7]),
    ],
)
def test_an_answer_that_is_wrong(change: Callable[[dict[str, Any]], None]) -> None:
    reply = copy.deepcopy(GOOD)
    change(reply)
    with memory(bitmap(*ZERO), STATE) as fds, pytest.raises(PeerError):
        taken_of(reply, fds, [BLOCK])


@pytest.mark.parametrize(
    "contents",
    [
        (),
        (bitmap(*ZERO),),
        (bitmap(*ZERO, 2), STATE),
        (bitmap(*ZERO[:3], 130), STATE),
        (bitmap(*ZERO)[:16], STATE),
        (bitmap(*ZERO), STATE, STATE),
    ],
)
def test_memory_that_is_wrong(contents: tuple[bytes, ...]) -> None:
    with memory(*contents) as fds, pytest.raises(PeerError):
        taken_of(GOOD, fds, [BLOCK])


def test_memory_that_is_not_sealed() -> None:
    fds = [memfd(bitmap(*ZERO), seals=0), memfd(STATE, seals=0)]
    with pytest.raises(PeerError):
        taken_of(GOOD, fds, [BLOCK])
    for fd in fds:
        os.close(fd)


def test_data_of_zero_pages(tmp_path: Path) -> None:
    path = tmp_path / "ram"
    with path.open("w+b") as file:
        file.truncate(PAGES * 4096)
        for page in (1, 2, 64, 65, 100):
            os.pwrite(file.fileno(), b"x" * 4096, page * 4096)
        zero = memoryview(bitmap(0, 1, 64, 65, 66, 129))
        found = list(data_of_zero_pages(file.fileno(), zero, PAGES, 4096))
    assert [(begin // 4096, end // 4096) for begin, end in found] == [(1, 2), (64, 66)]
