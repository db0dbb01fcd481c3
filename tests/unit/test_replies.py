"""What a false or broken service answers is refused as its fault: never a bug of ours, a signal, or
a page that is wrongly called zero."""

import contextlib
import copy
import fcntl
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pagecheck.cli.service_table import service_table
from pagecheck.errors import PeerError, ResourceError
from pagecheck.model import RamBlock
from pagecheck.native import _native
from pagecheck.service.client import Client
from pagecheck.service.replies import RemoteBlock, attached, checked
from pagecheck.shm.segments import F_SEAL_FUTURE_WRITE, SEALS_SIZE
from tests.unit.test_client import GREETING, lines, peer

PAGES = 130
WORDS = 24  # bytes of a bitmap
BLOCK = RemoteBlock(0, RamBlock("ram", PAGES * 4096, 4096), ())
SEALED = SEALS_SIZE | F_SEAL_FUTURE_WRITE


def memfd(content: bytes, seals: int = SEALED, flags: int = 0) -> int:
    fd = os.memfd_create("answer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    if content:
        os.write(fd, content)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def bitmap(*pages: int) -> bytes:
    bits = np.zeros(WORDS * 8, np.uint8)
    bits[list(pages)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


ZERO, NORMAL, HOLE = (0, 1, 64, 129), (2, 128), (1, 64)
GOOD_BITS = bitmap(*ZERO) + bitmap(*NORMAL) + bitmap(*HOLE)
GOOD: dict[str, Any] = {
    "answer": "live",
    "engine": "cpu",
    "kernel": "avx2",
    "channels": 2,
    "seconds": 0.5,
    "bytes_checked": 16384,
    "blocks": [
        {
            "block": 0,
            "name": "ram",
            "size": PAGES * 4096,
            "page_size": 4096,
            "counts": {
                "pages": PAGES,
                "zero": 4,
                "hole": 2,
                "normal": 2,
                "undecided": PAGES - 6,
                "unchanged": 0,
                "swapped": 0,
            },
            "bitmaps": {
                "zero": {"offset": 0, "bytes": WORDS},
                "normal": {"offset": WORDS, "bytes": WORDS},
                "hole": {"offset": 2 * WORDS, "bytes": WORDS},
            },
        }
    ],
    "notes": ["a note"],
    "why_live": "a reason",
    "pause": {
        "seconds": 0.1,
        "stood_still": True,
        "expired": False,
        "stopped_by_us": True,
        "left_stopped": False,
    },
}
GOOD_ATTACHED: dict[str, Any] = {
    "block": 0,
    "blocks": [
        {
            "block": 0,
            "name": "ram",
            "offset": 0,
            "size": PAGES * 4096,
            "page_size": 4096,
            "regions": [
                {
                    "guest_phys_addr": 0,
                    "memory_size": 4096,
                    "userspace_addr": 0,
                    "mmap_offset": 0,
                }
            ],
        }
    ],
    "unreadable": [{"name": "other", "size": 4096, "regions": [], "why": "a reason"}],
    "notes": ["a note"],
}


@pytest.fixture
def fd() -> Iterator[int]:
    opened = memfd(GOOD_BITS)
    yield opened
    os.close(opened)


def test_a_good_answer(fd: int) -> None:
    found = checked(GOOD, [fd], [BLOCK], whole=True)
    (report,) = found.blocks
    assert (bytes(report.zero), bytes(report.normal)) == (bitmap(*ZERO), bitmap(*NORMAL))
    assert report.zero.readonly
    assert found.answer == "live"
    assert found.pause is not None


def test_later_writes_of_the_service_are_not_seen() -> None:
    fd = memfd(GOOD_BITS, 0)
    with mmap.mmap(fd, 0) as ours:  # a seal against new writers leaves old ones
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALED)
        found = checked(GOOD, [fd], [BLOCK], whole=True)
        ours[:] = b"\xff" * len(ours)
        assert bytes(found.blocks[0].zero) == bitmap(*ZERO)
    os.close(fd)


def with_bits(zero: Any = ZERO, normal: Any = NORMAL, hole: Any = HOLE) -> bytes:
    return bitmap(*zero) + bitmap(*normal) + bitmap(*hole)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_bits(zero=(0, 1, 2, 64)), "contradict"),
        (with_bits(zero=(0, 1, 64, 130)), "past the block"),
        (with_bits(normal=(2, 191)), "past the block"),
        (with_bits(zero=(0, 1, 64)), "what the bitmaps say"),
        (with_bits(zero=(0, 1, 3, 64, 129)), "what the bitmaps say"),
        (with_bits(hole=(1,)), "what the bitmaps say"),
        (GOOD_BITS[:-1], "ends past"),
        (b"", "ends past"),
    ],
)
def test_bits_that_make_no_sense(content: bytes, said: str) -> None:
    fd = memfd(content)
    with pytest.raises(PeerError, match=said):
        checked(GOOD, [fd], [BLOCK], whole=True)
    os.close(fd)


def unsealed() -> int:
    return memfd(GOOD_BITS, 0)


def shrinkable() -> int:
    return memfd(GOOD_BITS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def more_seals_to_come() -> int:
    return memfd(GOOD_BITS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)


def huge() -> int:
    """Memory that need not be there: touching a mapping of it is SIGBUS."""
    try:
        fd = memfd(b"", 0, os.MFD_HUGETLB)
        os.ftruncate(fd, 2 << 20)
    except OSError as error:
        pytest.skip(f"needs hugetlbfs in the kernel: {error.strerror}")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALED)
    return fd


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


FALSE: list[Callable[[], int]] = [
    unsealed,
    shrinkable,
    more_seals_to_come,
    huge,
    a_pipe,
    lambda: os.open("/dev/zero", os.O_RDWR),
    lambda: os.open("/", os.O_RDONLY),
    lambda: os.open(__file__, os.O_RDONLY),
    lambda: os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE),
    lambda: os.open("/proc/self/status", os.O_RDONLY),
    lambda: os.eventfd(0),
    lambda: os.open(__file__, os.O_PATH),
]
FALSE_IDS = (
    *("unsealed", "shrinkable", "more seals to come", "huge", "a pipe", "a device", "a folder"),
    *("a file", "a file on tmpfs", "a file of proc", "an eventfd", "a path"),
)


@pytest.mark.parametrize("make", FALSE, ids=FALSE_IDS)
def test_memory_that_is_not_what_was_promised(make: Callable[[], int]) -> None:
    fd = make()
    with pytest.raises(PeerError, match="the bitmaps of the answer to check"):
        checked(GOOD, [fd], [BLOCK], whole=True)
    os.close(fd)


@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_descriptors(fd: int, count: int) -> None:
    with pytest.raises(PeerError, match="came without its bitmaps"):
        checked(GOOD, [fd] * count, [BLOCK], whole=True)


WRONG: list[Any] = [
    None,
    True,
    -1,
    7,
    1 << 70,
    1.5,
    1e300,
    "text",
    "\x1b[2J",
    [],
    [7],
    {},
    {"a": 1},
]


def variants(document: Any) -> Iterator[Any]:
    """The document with one member at a time missing, or of another type or size."""

    def paths(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        keys = node.keys() if isinstance(node, dict) else range(len(node))
        for key in keys:
            yield (*path, key)
            if isinstance(node[key], (dict, list)):
                yield from paths(node[key], (*path, key))

    for *parents, key in paths(document, ()):
        for value in (*WRONG, "missing"):
            changed = copy.deepcopy(document)
            node = changed
            for parent in parents:
                node = node[parent]
            if value == "missing":
                del node[key]
            else:
                node[key] = value
            yield changed


def outcomes(documents: Iterator[Any], take: Callable[[Any], object]) -> tuple[int, int]:
    """How many were taken, and how many refused as the peer's fault; anything else fails."""
    taken = refused = 0
    for document in documents:
        try:
            take(document)
            taken += 1
        except (PeerError, ResourceError):
            refused += 1
    return taken, refused


def test_no_answer_to_check_is_a_bug_of_ours(fd: int) -> None:
    def take(document: Any) -> None:
        found = checked(document, [fd], [BLOCK], whole=True)
        assert bytes(found.blocks[0].zero) in (bitmap(*ZERO), bitmap(*HOLE))
        assert found.blocks[0].counts.pages == PAGES

    taken, refused = outcomes(variants(GOOD), take)
    assert taken > 10  # a text is a text, and what nobody reads may be anything
    assert refused > 300


def test_no_answer_to_attach_is_a_bug_of_ours() -> None:
    taken, refused = outcomes(variants(GOOD_ATTACHED), lambda document: attached(document, 4096))
    assert taken > 10
    assert refused > 200


@pytest.mark.parametrize("page_size", [2 << 20, 1 << 62])
def test_pages_of_another_size(page_size: int) -> None:
    changed = copy.deepcopy(GOOD_ATTACHED)
    changed["blocks"][0] |= {"page_size": page_size, "size": page_size}
    with pytest.raises(PeerError, match="pages are not of 4096"):
        attached(changed, 4096)


def test_bitmaps_of_more_than_any_memory() -> None:
    """A sparse memfd costs a service nothing."""
    pages = 1 << 50
    fd = os.memfd_create("answer", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, pages // 8)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALED)
    changed = copy.deepcopy(GOOD)
    changed["blocks"][0]["bitmaps"] = {
        name: {"offset": 0, "bytes": pages // 8} for name in ("zero", "normal")
    }
    block = RemoteBlock(0, RamBlock("ram", pages * 4096, 4096), ())
    with pytest.raises(ResourceError, match="no memory for"):
        checked(changed, [fd], [block], whole=True)
    os.close(fd)


STATS: dict[str, Any] = {
    "pid": 1,
    "uptime_seconds": 1.0,
    "engine": "cpu",
    "kernel": "avx2",
    "workers": 2,
    "workers_replaced": 0,
    "clients": 1,
    "blocks": 0,
    "channels": 0,
    "numbers": {"errors": 1},
    "engines": {
        "cpu": {
            "pages": {"zero": 1, "normal": 1, "undecided": 0, "holes": 0, "bytes": 4096},
            "answered": 1,
            "latency_ns": 5,
        }
    },
    "sessions": [
        {
            "client": 1,
            "pid": 1,
            "uid": 0,
            "seconds": 1.0,
            "commands": 1,
            "doing": None,
            "channels": [{"channel": 0, "worker": 1, "gone": False}],
            "blocks": [{"block": 0, "name": "ram", "size": 4096}],
        }
    ],
}


def test_no_statistics_are_a_bug_of_ours() -> None:
    taken, refused = outcomes(variants(STATS), lambda d: service_table(d, STATS, 1.0))
    assert taken > 50
    assert refused > 100


def sends(message: object, *fds: int) -> Callable[[socket.socket], None]:
    """Greets, and answers the first request with that."""
    import json

    def serve(connected: socket.socket) -> None:
        connected.sendall(json.dumps(GREETING).encode() + b"\n")
        connected.recv(4096)
        socket.send_fds(connected, [json.dumps(message).encode() + b"\n"], list(fds))
        while connected.recv(4096):
            pass

    return serve


def segment(slots: int = 16, slot_pages: int = 128, seals: int = SEALS_SIZE) -> int:
    fd = memfd(bytes(_native.segment_bytes(slots, slot_pages)), 0)
    _native.segment_format(fd, slots, slot_pages, 1)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def test_blocks_in_another_order(fd: int) -> None:
    with pytest.raises(PeerError, match="another block than 1"):
        checked(GOOD, [fd], [BLOCK._replace(number=1)], whole=True)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"offset": 4096}, "from 0x1000 on"),
        ({"size": 4096}, "0x1000 bytes"),
        ({"name": "\ud800"}, "name cannot be encoded"),
    ],
)
def test_another_part_of_the_file_than_was_asked_for(told: dict[str, Any], said: str) -> None:
    answer = copy.deepcopy(GOOD_ATTACHED) | {"unreadable": []}
    answer["blocks"][0] |= told
    ram = memfd(b"", 0)
    os.ftruncate(ram, PAGES * 4096)
    with (
        peer(sends({"return": answer, "id": 1})) as path,
        Client(path) as client,
        pytest.raises(PeerError, match=said),
    ):
        client.attach(ram, length=PAGES * 4096)
    os.close(ram)


def test_a_ring_of_smaller_batches_than_was_asked_for() -> None:
    """The size of its memory is right, its own header says another geometry."""
    fd = segment(slots=16, slot_pages=128, seals=0)
    _native.segment_format(fd, 16, 64, 1)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS_SIZE)
    with peer(sends({"return": {"channel": 0}, "id": 1}, fd)) as path, Client(path) as client:
        channel = client.open_channel()
        with pytest.raises(PeerError, match="batch of 128 pages is out of range"):
            channel.check(client.own(BLOCK), [0], deadline=0.1)
        channel._feed.close()
    os.close(fd)


SEGMENTS: dict[str, Callable[[], list[int]]] = {
    "none": list,
    "two": lambda: [segment(), segment()],
    "too small": lambda: [segment(slots=8)],
    "too large": lambda: [segment(slots=32)],
    "unsealed": lambda: [segment(seals=0)],
    "read-only": lambda: [segment(seals=SEALS_SIZE | fcntl.F_SEAL_WRITE)],
    "no ring": lambda: [memfd(bytes(_native.segment_bytes(16, 128)), SEALS_SIZE)],
    "of no size": lambda: [memfd(b"", SEALS_SIZE)],
    "a pipe": lambda: [a_pipe()],
}


@pytest.mark.parametrize("make", SEGMENTS.values(), ids=SEGMENTS)
def test_a_channel_that_is_not_what_was_asked_for(make: Callable[[], list[int]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fds = make()
    answer = {"return": {"channel": 0}, "id": 1}
    with (
        peer(sends(answer, *fds)) as path,
        Client(path) as client,
        pytest.raises(PeerError, match="the memory of the channel"),
    ):
        client.open_channel()
    for each in fds:
        os.close(each)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("answer", [None, [], 7, "text"])
def test_an_answer_that_is_no_object(answer: Any) -> None:
    with (
        peer(lines(GREETING, {"return": answer, "id": 1})) as path,
        Client(path) as client,
        pytest.raises(PeerError, match="is not an object"),
    ):
        client.stats()


def test_no_greeting_is_a_bug_of_ours() -> None:
    greeting = {**GREETING["pagecheck"], "capabilities": ["layouts"], "layouts": [3]}

    def take(document: Any) -> None:
        with peer(lines({"pagecheck": document})) as path, contextlib.closing(Client(path)):
            pass

    _taken, refused = outcomes(variants(greeting), take)
    assert refused > 30
