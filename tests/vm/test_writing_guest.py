"""RAM of a guest under load, looked at while it runs: what is never zero is not called so, and with
the pages that were written to looked at again, every answer is right."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block
from pagecheck.selftest.kernels import usable_kernels
from tests.support.bitmaps import Bools, bits
from tests.support.guests import booted
from tests.support.oracle import zero_pages
from tests.support.waiting import wait_for
from tests.vm.qemu_stream import records
from tools.guest import Guest
from tools.guest.fetch import GuestFiles
from tools.guest.patterns import EDGE_PAGES, TAG_PAGES, edge_page, tag_page

PAGE = 4096
MIB = 1 << 20
RANDOM_MB = 4
SLOW = MIB  # bytes per second: far less than the guest writes, so that it never ends
COPIES = 3  # of a block of random.bin: there, and twice in twice.bin; moving.bin has one more

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def guest(guest_files: GuestFiles) -> Iterator[Guest]:
    """It overwrites random bytes with others all the time."""
    how: dict[str, Any] = {"size_bytes": 192 * MIB, "random_mb": RANDOM_MB, "zeros_mb": 4}
    with booted(machine="q35", backend="file", check_every_s=2, write_mib_s=40, **how) as running:
        yield running


class Ram:
    """What the RAM file holds while the guest is paused.

    Attributes:
        digests: of each page.
        zero: pages that are zero.
    """

    def __init__(self, guest: Guest) -> None:
        self.digests = []
        with open(guest.ram_path, "rb") as file:
            while chunk := file.read(MIB):
                self.digests += [
                    hashlib.blake2b(chunk[at : at + PAGE], digest_size=16).digest()
                    for at in range(0, len(chunk), PAGE)
                ]
        self.zero = zero_pages(guest.ram_path, PAGE)
        self._counted = Counter(self.digests)

    def changed(self, other: Ram) -> Bools:
        return np.array([a != b for a, b in zip(self.digests, other.digests, strict=True)])

    def in_copies(self) -> Bools:
        """Pages with what random.bin has: there is no other content so often but zeros."""
        often = np.array([self._counted[each] >= COPIES for each in self.digests])
        return often & ~self.zero

    def patterns(self) -> Bools:
        """Pages that the guest keeps as they are."""
        known = [edge_page(n) for n in range(EDGE_PAGES)] + [tag_page(n) for n in range(TAG_PAGES)]
        wanted = {hashlib.blake2b(each, digest_size=16).digest() for each in known}
        return np.array([each in wanted for each in self.digests])


def paused(guest: Guest) -> Ram:
    guest.pause()
    try:
        return Ram(guest)
    finally:
        guest.resume()


def looked(coordinator: Coordinator, block: Block, pages: np.ndarray | None = None) -> Bools:
    """Pages that are called zero; all are decided."""
    if pages is None:
        found = coordinator.scan(block).blocks[0]
        zero, normal = bits(found.zero, block.ram.pages), bits(found.normal, block.ram.pages)
        assert (zero | normal).all()
        return zero
    answer = coordinator.check(block, pages.astype(np.uint64) * np.uint64(PAGE))
    assert answer.decided.all()
    return answer.zero


def test_what_is_never_zero_is_never_called_so(guest: Guest) -> None:
    ways: list[dict[str, Any]] = [{"engine": "cpu", "kernel": name} for name in usable_kernels()]
    ways.append({"engine": "dsa", "wq": ["model:faults=page-fault"]})
    before = paused(guest)
    copies = before.in_copies()
    called = np.zeros(len(before.digests), np.bool_)
    for how in ways:
        with Coordinator(2, **how) as c:
            for access in ("map", "read"):
                block = c.attach(str(guest.ram_path), access=access)  # type: ignore[arg-type]
                called |= looked(c, block)
                some = np.random.default_rng(1).permutation(block.ram.pages)
                called[some] |= looked(c, block, some)
        # A page of a pipe, through which the guest reads its files, is one of them only at times.
        copies &= paused(guest).in_copies()
    guest.wait_check()
    for _ in range(30):  # after each RANDOM_MB rounds what is written is where it was
        after = paused(guest)
        moving = copies & after.in_copies() & before.changed(after)
        if moving.sum() > RANDOM_MB * MIB // PAGE // 2:
            break
    else:
        pytest.fail("the guest did not write")
    assert not (called & moving).any(), np.flatnonzero(called & moving)[:9]
    kept = before.patterns() & after.patterns()
    assert kept.sum() >= EDGE_PAGES
    assert not (called & kept).any(), np.flatnonzero(called & kept)[:9]
    assert guest.wait_check().endswith("OK")


def test_the_pages_that_were_written_looked_at_again(guest: Guest, tmp_path: Path) -> None:
    """As a sender does it: all of RAM while the guest runs, then, once it is stopped, what was
    written to since. QEMU's own log knows that: a migration sends those pages again."""
    stream = tmp_path / "stream"
    guest.qmp("migrate-set-parameters", **{"max-bandwidth": 24 * MIB, "downtime-limit": 1})
    guest.qmp("migrate", uri=f"exec:cat >{stream}")
    wait_for(lambda: passes(guest) >= 2, "a first pass, after which writes are logged", 60)
    guest.qmp("migrate-set-parameters", **{"max-bandwidth": SLOW})
    with Coordinator(2) as c:
        block = c.attach(str(guest.ram_path), access="map")
        zero = looked(c, block)
        guest.wait_check()  # processes begin and end: some 20 zero pages are not zero after it
        assert guest.qmp("query-migrate")["status"] == "active"
        guest.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 60_000})
        wait_for(lambda: guest.qmp("query-migrate")["status"] == "completed", "all sent", 60)
        _zero, times = records(stream, "ram", len(zero))
        written = np.flatnonzero(times > 1)
        assert len(written) > 100
        zero[written] = looked(c, block, written)
        right = zero_pages(guest.ram_path, PAGE)
        assert np.array_equal(zero, right), np.flatnonzero(zero != right)[:9]
        assert np.array_equal(looked(c, block), right)
    guest.resume()
    assert guest.wait_check().endswith("OK")


def passes(guest: Guest) -> int:
    """Of the migration, with the one that goes on."""
    return int(guest.qmp("query-migrate").get("ram", {}).get("dirty-sync-count", 0))
