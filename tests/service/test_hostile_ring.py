"""A direct channel whose memory its VMM writes as it likes; and workers that die behind one."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time

import numpy as np
import psutil
import pytest

from pagecheck import Client
from pagecheck.errors import PeerError
from pagecheck.native import Feed
from pagecheck.native._native import HEADER_BYTES, SLOT_HEAD_BYTES
from pagecheck.shm.layout import HEADER, SLOT
from tests.support.hostile import Witness
from tests.support.known_ram import KnownRam
from tests.support.rams import PAGE
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

SLOTS, SLOT_PAGES = 8, 128
U64 = (1 << 64) - 1


class Scribbler:
    """A channel of its own, as bytes."""

    def __init__(self, client: Client, pages: int = SLOT_PAGES) -> None:
        asked = {"slots": SLOTS, "slot_pages": pages}
        reply, (fd,) = client.execute("open-channel", asked)
        self.number, self.worker = reply["channel"], reply["worker"]
        self.fd = fd
        self.memory = mmap.mmap(fd, reply["segment_bytes"])
        self.feed = Feed(fd)
        self._slot_bytes = HEADER["slot_bytes"].read(self.memory[:HEADER_BYTES])

    def slot(self, sequence: int) -> int:
        return HEADER_BYTES + sequence % SLOTS * self._slot_bytes

    def put(self, at: int, value: int, size: int) -> None:
        self.memory[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def submit(self, sequence: int, offsets: list[int], **fields: int) -> None:
        """A request with any fields; wakes the worker whatever it does."""
        at = self.slot(sequence)
        given = {"kind": 2, "block": 0, "first_page": 0, "count": len(offsets), **fields}
        for name, value in given.items():
            self.put(at + SLOT[name].offset, value, SLOT[name].size)
        for index, offset in enumerate(offsets[:SLOT_PAGES]):
            self.put(at + SLOT_HEAD_BYTES + 8 * index, offset, 8)
        self.put(at + SLOT["request"].offset, sequence << 8 | 1, 8)
        self.feed.raise_attention()

    def answer(self, sequence: int) -> int:
        at = self.slot(sequence) + SLOT["answer"].offset
        return int.from_bytes(self.memory[at : at + 8], "little")

    def wait_answer(self, sequence: int) -> int:
        wait_for(lambda: self.answer(sequence) >> 8 == sequence, f"an answer to {sequence}")
        return self.answer(sequence) & 0xFF

    def close(self) -> None:
        self.feed.close()
        self.memory.close()
        os.close(self.fd)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


WRONG = {
    "no pages": {"count": 0},
    "more pages than a slot has": {"count": SLOT_PAGES + 1},
    "as many as there can be": {"count": (1 << 32) - 1},
    "a block that is not there": {"block": 1},
    "a block out of range": {"block": (1 << 32) - 1},
    "no kind": {"kind": 0},
    "an unknown kind": {"kind": 77},
    "a range past the end": {"kind": 1, "first_page": 1 << 52},
    "a range that wraps": {"kind": 1, "first_page": U64, "count": 2},
}


def test_requests_that_make_no_sense_are_refused(
    service: ServiceProcess, known_ram: KnownRam
) -> None:
    with Witness(service.path, channel=True), Client(service.path) as client:
        client.attach(known_ram.fd)
        channel = Scribbler(client)
        sequence = 0
        for fields in WRONG.values():
            sequence += 1
            channel.submit(sequence, [0], **fields)
            assert channel.wait_answer(sequence) == 2, fields
        for offset in (1, PAGE - 8, known_ram.size, U64 - PAGE + 1, 1 << 63):
            sequence += 1
            channel.submit(sequence, [0, offset])
            assert channel.wait_answer(sequence) == 2, hex(offset)
        channel.submit(sequence + 1, [0])
        assert channel.wait_answer(sequence + 1) == 1
        assert is_alive(channel.worker)
        channel.close()


@pytest.mark.long(but="0")
@pytest.mark.parametrize("seed", range(6))
def test_scribbling_anywhere(service: ServiceProcess, known_ram: KnownRam, seed: int) -> None:
    rng = random.Random(seed)
    blocks, content = known_ram.st_blocks, os.pread(known_ram.fd, known_ram.size, 0)
    with Witness(service.path, channel=True), Client(service.path) as client:
        client.attach(known_ram.fd)
        channel = Scribbler(client)
        size = len(channel.memory)
        for sequence in range(1, 400):
            pages = [rng.randrange(known_ram.pages) * PAGE for _ in range(rng.randrange(1, 128))]
            if rng.random() < 0.3:
                wrong = rng.choice(list(WRONG.values()))
                channel.submit(rng.choice([sequence, rng.getrandbits(40)]), pages, **wrong)
            else:
                channel.submit(sequence, pages)
            for _ in range(rng.randrange(4)):
                value, width = rng.getrandbits(64), rng.choice([1, 4, 8])
                place = rng.choice([HEADER_BYTES, size]) - 8
                channel.put(rng.randrange(place) & ~7, value, width)
        client.blocks()  # the service answers
        channel.close()
        fresh = client.open_channel()
        (block,) = client.blocks()
        offsets = np.arange(known_ram.pages, dtype=np.uint64) * np.uint64(PAGE)
        answer = fresh.check(block, offsets)
        np.testing.assert_array_equal(answer.zero, known_ram.zero)
        fresh.close()
    assert known_ram.st_blocks == blocks
    assert os.pread(known_ram.fd, known_ram.size, 0) == content


def test_its_size_is_sealed(service: ServiceProcess) -> None:
    with Client(service.path) as client:
        channel = Scribbler(client)
        for size in (0, 4096, 1 << 30):
            with pytest.raises(PermissionError):
                os.ftruncate(channel.fd, size)
        channel.close()


def test_a_worker_that_is_killed(service: ServiceProcess, known_ram: KnownRam) -> None:
    offsets = np.arange(known_ram.pages, dtype=np.uint64) * np.uint64(PAGE)
    with Witness(service.path, channel=True), Client(service.path) as client:
        (block,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        np.testing.assert_array_equal(channel.check(block, offsets).zero, known_ram.zero)
        (worker,) = [
            each["worker"]
            for session in client.stats()["sessions"]
            if session["blocks"] and session["blocks"][0]["name"] == "ram"
            for each in session["channels"]
            if session["pid"] == os.getpid() and len(session["channels"]) == 1
        ][-1:]
        os.kill(worker, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(PeerError, match="open another"):
            channel.check(block, offsets, deadline=20)
        assert time.monotonic() - begun < 10
        again = client.open_channel()
        np.testing.assert_array_equal(again.check(block, offsets).zero, known_ram.zero)
        assert client.stats()["numbers"]["channels_lost"] == 1


def run_ns(pid: int) -> int:
    with open(f"/proc/{pid}/schedstat") as stat:
        return int(stat.read().split()[0])


def test_a_worker_that_stands_still(start_service, known_ram: KnownRam) -> None:
    """Stopped with a batch in hand that takes it far longer than the 3 ms it had."""
    service = start_service("--engine", "cpu", "--stall", "0.5")
    with Client(service.path) as client:
        client.attach(known_ram.fd)
        channel = Scribbler(client, pages=65536)
        before = run_ns(channel.worker)
        channel.submit(1, [], kind=2, count=65536)  # 65536 times the page at offset 0
        wait_for(lambda: run_ns(channel.worker) > before + 3_000_000, "it works")
        os.kill(channel.worker, signal.SIGSTOP)
        assert channel.answer(1) == 0
        wait_for(
            lambda: HEADER["gone"].read(channel.memory[:HEADER_BYTES]), "the channel is gone", 20
        )
        assert not is_alive(channel.worker)
        assert channel.answer(1) == 0
        assert len(client.blocks()) == 1
        channel.close()


def test_workers_go_with_a_killed_client(service: ServiceProcess) -> None:
    client = Client(service.path)
    workers = [Scribbler(client) for _ in range(3)]
    for each in workers:
        each.close()
    client._connection.hang_up()  # as the kernel does for the dead
    wait_for(lambda: not any(is_alive(each.worker) for each in workers), "the workers are gone")
    client.close()
