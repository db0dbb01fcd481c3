"""A worker that answers nonsense, a stale worker, and segments that are damaged."""

import os
import signal

import pytest

from pagecheck import Coordinator
from pagecheck.native import Feed, Worker, _native
from pagecheck.shm.layout import CONTROL, HEADER
from pagecheck.shm.owner import Owner
from pagecheck.shm.ring import NamedRing
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.processes import stop
from tests.support.ring import RingView
from tests.support.waiting import Background, wait_for

ALL = 2**64 - 1
NONSENSE = {
    "a zero bit without its decided bit": (1, 0, lambda n: n << 8 | 1),
    "bits past the count": (0, ALL, lambda n: n << 8 | 1),
    "zero bits past the count": (1 << 63, 1 << 63, lambda n: n << 8 | 1),
    "the answer of a newer sequence": (ALL, ALL, lambda n: (n + 1) << 8 | 1),
    "the answer of the far future": (0, 0, lambda n: ALL),
    "a refusal": (0, 0, lambda n: n << 8 | 2),
    "an unknown state": (0, 0, lambda n: n << 8 | 77),
    "no state": (0, 0, lambda n: n << 8),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_replaces_the_worker(ram: KnownRam, what: str):
    zero, decided, answer = NONSENSE[what]
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        stop(c.worker_pids[0])
        normal_first = ram.offsets[~ram.zero][:50]  # 50 pages: bits 50 to 63 are past the count
        check = Background(lambda: c.check(block, normal_first))
        wait_for(lambda: view.is_submitted(1), "the request")
        view.write_words(1, zero, decided)
        view.write_answer(1, answer(1))
        got = check.result()
        assert got.decided.all()
        assert not got.zero.any()
        assert c.workers_replaced == 1
        view.close()


@pytest.mark.parametrize("answer", [0, 0xFF, 1], ids=["none", "state alone", "sequence 0"])
def test_an_older_answer_is_no_answer_yet(ram: KnownRam, answer: int):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        pid = c.worker_pids[0]
        stop(pid)
        check = Background(lambda: c.check(block, ram.offsets[:64]))
        wait_for(lambda: view.is_submitted(1), "the request")
        view.write_words(1, ALL, ALL)
        view.write_answer(1, answer)
        os.kill(pid, signal.SIGCONT)
        assert (check.result().zero == ram.zero[:64]).all()
        assert c.worker_pids == [pid]
        view.close()


def test_bits_are_copied_before_they_are_checked_and_only_for_the_batch(ram: KnownRam):
    """A sound answer is taken at its word: the worker is trusted to look, not to count."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        stop(c.worker_pids[0])
        check = Background(lambda: c.check(block, ram.offsets[:50]))
        wait_for(lambda: view.is_submitted(1), "the request")
        view.write_words(1, 0b0101, 0b0111)
        view.write_answer(1, 1 << 8 | 1)
        got = check.result()
        assert list(got.decided[:5]) == [True, True, True, False, False]
        assert list(got.zero[:5]) == [True, False, True, False, False]
        assert got.notes
        view.close()


def test_a_stale_worker_reaches_nobody(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        old = RingView(c.segment_names[0])
        os.kill(c.worker_pids[0], signal.SIGKILL)
        assert (c.check(block, ram.offsets).zero == ram.zero).all()
        assert c.workers_replaced == 1
        new = RingView(c.segment_names[0])
        assert new.header("generation") == old.header("generation") + 1
        done = wait_for(lambda: max(new.slot(n, "request") >> 8 for n in range(16)), "requests")
        stop(c.worker_pids[0])
        check = Background(lambda: c.check(block, ram.offsets[:64]))
        wait_for(lambda: new.is_submitted(done + 1), "the request")
        for sequence in range(1, 32):  # what the dead one would still write, everywhere
            old.write_words(sequence, ALL, ALL)
            old.write_answer(sequence, sequence << 8 | 1)
        assert new.slot(done + 1, "answer") >> 8 != done + 1
        os.kill(c.worker_pids[0], signal.SIGCONT)
        assert (check.result().zero == ram.zero[:64]).all()
        assert c.workers_replaced == 1
        old.close()
        new.close()


def test_deciding_and_progress_are_only_watched(ram: KnownRam):
    """Nonsense in the words that are not answers decides nothing."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        for field in ("progress", "deciding"):
            at = CONTROL[field].offset
            view.control_memory[at : at + 8] = ALL.to_bytes(8, "little")
        assert_scan_is_right(c.scan(block), ram)
        assert c.workers_replaced == 0
        view.close()


def test_a_worker_that_says_that_nobody_answers_is_replaced(ram: KnownRam):
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        at = HEADER["gone"].offset
        stop(c.worker_pids[0])  # it might have answered before anybody looks
        view.memory[at : at + 4] = (1).to_bytes(4, "little")
        assert c.check(block, ram.offsets).decided.all()
        assert c.workers_replaced == 1
        view.close()


def test_geometry_is_not_read_again(ram: KnownRam):
    """Both sides keep private copies: a header that is scribbled over later moves no pointer."""
    with Coordinator(1) as c:
        block = c.attach(ram.source)
        view = RingView(c.segment_names[0])
        view.memory[: HEADER["slot_bytes"].offset + 8] = b"\xff" * 48
        assert_scan_is_right(c.scan(block), ram)
        assert c.workers_replaced == 0
        view.close()


BROKEN = {
    "magic": 0,
    "layout_version": _native.LAYOUT_VERSION + 1,
    "header_bytes": 64,
    "segment_bytes": 1 << 40,
    "slot_count": 0,
    "slot_pages": 63,
    "slot_bytes": 128,
}


@pytest.mark.parametrize("field", [*BROKEN, "slot_count huge", "short file", "empty file"])
def test_a_broken_header_is_refused_by_both_sides(field: str):
    owner = Owner()
    ring = NamedRing(owner, 0, 1, 4, 64)
    try:
        if field == "short file":
            os.ftruncate(ring.fd, 1000)
        elif field == "empty file":
            os.ftruncate(ring.fd, 0)
        else:
            name, _, huge = field.partition(" ")
            value = (2**32 - 1 if huge else BROKEN[name]).to_bytes(HEADER[name].size, "little")
            os.pwrite(ring.fd, value, HEADER[name].offset)
        with pytest.raises(ValueError, match="channel segment"):
            Worker(ring.fd, ring.control_fd, _native.kernel_auto())
        with pytest.raises(ValueError, match="channel segment"):
            Feed(ring.fd, ring.control_fd)
    finally:
        ring.remove()
        owner.close()
