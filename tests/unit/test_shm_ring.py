"""A ring's names, and a header that is not ours."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError
from pagecheck.native import Feed, _native
from pagecheck.shm.layout import HEADER
from pagecheck.shm.owner import Owner
from pagecheck.shm.ring import NamedRing

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


@pytest.fixture
def ring(owner: Owner) -> Iterator[NamedRing]:
    made = NamedRing(owner, 3, 2, 16, 64)
    yield made
    made.remove()


def names(owner: Owner) -> set[str]:
    return {n for n in os.listdir("/dev/shm") if owner.prefix in n and not n.endswith("-owner")}


def test_names(owner: Owner, ring: NamedRing) -> None:
    base = f"{owner.prefix}-c3g2"
    assert names(owner) == {f"{base}-ring", f"{base}-control"}


def test_remove_takes_every_name_away(owner: Owner, ring: NamedRing) -> None:
    ring.remove()
    assert names(owner) == set()
    ring.remove()


def test_a_name_that_is_taken_leaves_nothing_half_made(owner: Owner) -> None:
    taken = Path(f"/dev/shm/{owner.prefix}-c0g1-control")
    taken.write_bytes(b"x" * 32)
    try:
        with pytest.raises(ResourceError, match="control"):
            NamedRing(owner, 0, 1, 16, 64)
        assert names(owner) == {taken.name}
    finally:
        taken.unlink()


def test_feed_opens_it(ring: NamedRing) -> None:
    feed = Feed(ring.fd, ring.control_fd)
    assert feed.counts() == (0, 0, 0)
    feed.close()


@pytest.mark.parametrize(
    "field",
    [
        "magic",
        "layout_version",
        "header_bytes",
        "segment_bytes",
        "slot_count",
        "slot_pages",
        "slot_bytes",
    ],
)
def test_a_damaged_header_is_refused(ring: NamedRing, field: str) -> None:
    at = HEADER[field]
    old = os.pread(ring.fd, at.size, at.offset)
    os.pwrite(ring.fd, bytes(b ^ 0x55 for b in old), at.offset)
    with pytest.raises(ValueError, match="segment"):
        Feed(ring.fd, ring.control_fd)


def test_a_short_segment_is_refused(ring: NamedRing) -> None:
    os.ftruncate(ring.fd, 4096)
    with pytest.raises(ValueError, match="sizes disagree"):
        Feed(ring.fd, ring.control_fd)


def test_a_short_control_segment_is_refused(ring: NamedRing) -> None:
    os.ftruncate(ring.control_fd, 512)
    with pytest.raises(ValueError, match="control segment too short"):
        Feed(ring.fd, ring.control_fd)


def test_a_vmm_has_no_control_segment(ring: NamedRing) -> None:
    feed = Feed(ring.fd)
    feed.raise_attention()
    assert feed.progress() == 0
    assert os.pread(ring.control_fd, 8, 0) == bytes(8)
    feed.close()


def test_who_waits_for_a_worker_that_is_gone_learns_it(ring: NamedRing) -> None:
    feed, other = Feed(ring.fd), Feed(ring.fd, ring.control_fd)
    zero, decided = bytearray(8), bytearray(8)
    feed.begin_offsets(0, 64, (0).to_bytes(8, "little"), zero, decided)
    feed.more(0, 1)
    ended: list[int] = []
    waits = threading.Thread(target=lambda: ended.append(feed.pump(False, 1 << 62)))
    waits.start()
    other.mark_gone()
    waits.join(20)
    assert ended == [_native.PUMP_GONE]
    feed.end()
    for each in (feed, other):
        each.close()
