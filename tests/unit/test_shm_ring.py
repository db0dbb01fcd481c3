"""A ring's names, and a header that is not ours."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError
from pagecheck.native import Feed
from pagecheck.shm.layout import HEADER
from pagecheck.shm.owner import Owner
from pagecheck.shm.ring import Ring

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def owner() -> Iterator[Owner]:
    made = Owner()
    yield made
    made.close()


@pytest.fixture
def ring(owner: Owner) -> Iterator[Ring]:
    made = Ring(owner, 3, 2, 16, 64)
    yield made
    made.remove()


def names(owner: Owner) -> set[str]:
    return {n for n in os.listdir("/dev/shm") if owner.prefix in n and not n.endswith("-owner")}


def test_names(owner: Owner, ring: Ring) -> None:
    base = f"{owner.prefix}-c3g2"
    assert names(owner) == {f"{base}-ring", f"sem.{base}-submit", f"sem.{base}-done"}


def test_remove_takes_every_name_away(owner: Owner, ring: Ring) -> None:
    ring.remove()
    assert names(owner) == set()
    ring.remove()


def test_a_name_that_is_taken_leaves_nothing_half_made(owner: Owner) -> None:
    taken = Path(f"/dev/shm/sem.{owner.prefix}-c0g1-done")
    taken.write_bytes(b"x" * 32)
    try:
        with pytest.raises(ResourceError, match="done"):
            Ring(owner, 0, 1, 16, 64)
        assert names(owner) == {taken.name}
    finally:
        taken.unlink()


def test_feed_opens_it(ring: Ring) -> None:
    feed = Feed(ring.fd, ring.submit_name, ring.done_name)
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
def test_a_damaged_header_is_refused(ring: Ring, field: str) -> None:
    at = HEADER[field]
    old = os.pread(ring.fd, at.size, at.offset)
    os.pwrite(ring.fd, bytes(b ^ 0x55 for b in old), at.offset)
    with pytest.raises(ValueError, match="segment"):
        Feed(ring.fd, ring.submit_name, ring.done_name)


def test_a_short_segment_is_refused(ring: Ring) -> None:
    os.ftruncate(ring.fd, 4096)
    with pytest.raises(ValueError, match="sizes disagree"):
        Feed(ring.fd, ring.submit_name, ring.done_name)


def test_a_missing_semaphore_is_an_os_error(ring: Ring) -> None:
    with pytest.raises(OSError, match="submit semaphore"):
        Feed(ring.fd, ring.submit_name + "x", ring.done_name)
