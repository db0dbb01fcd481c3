"""The own loop of who is scanned, while it is scanned live and while it is not.

Who is scanned keeps one CPU; the scan has the others, where there are any. The scans follow each
other without a break, which is more than a user does.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pagecheck
from pagecheck import Coordinator
from tools.bench.others_ram import BareCopy, PrivateRam, Scheduled
from tools.bench.private import BUFFER, PAGE, SIZE
from tools.bench.private_guest import COMMAND_S, booted, if_there_is_a_guest, resident_bytes
from tools.bench.rows import Row, Spread
from tools.guest import Guest

LOOP_S: Final = 1.0
LOOPS: Final = {1 << 20: "1 MiB, in its cache", SIZE: "1 GiB"}
GUEST_MB: Final = 32  # of each pattern that the guest sums
GUEST_S: Final = 4.0
GUEST_LOOP: Final = "a guest's own loop while it is scanned live, 1 channel"


@contextlib.contextmanager
def repeated(call: Callable[[], object]) -> Iterator[Callable[[], int]]:
    """Runs a call again and again, in a thread, until the block ends.

    Yields:
        What says how often it has been done.

    Raises:
        Exception: what the call raised, at the end of the block.
    """
    ends = threading.Event()
    done = 0

    def again() -> None:
        nonlocal done
        while not ends.is_set():
            call()
            done += 1

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(again)
        try:
            yield lambda: done
        finally:
            ends.set()
            running.result()


@contextlib.contextmanager
def scan_apart() -> Iterator[tuple[int, str]]:
    """Keeps this process, and those that it starts, off one CPU, which is for who is scanned.

    Yields:
        That CPU, and how far the CPUs are apart, in words.
    """
    before = os.sched_getaffinity(0)
    first, *others = sorted(before)
    if others:
        os.sched_setaffinity(0, others)
    try:
        yield first, "a CPU each" if others else "on the only CPU"
    finally:
        os.sched_setaffinity(0, before)


def _seconds_per_byte(ram: PrivateRam, size: int) -> float:
    """Of the process's own loop."""
    waited = Scheduled.of(ram.pid).waited
    passed = ram.loop(size, LOOP_S)
    return (LOOP_S - (Scheduled.of(ram.pid).waited - waited)) / passed


def of_process(repeats: int, size: int) -> Row:
    """A process that changes its memory all the time, while it is scanned live and while it is not.

    Args:
        repeats: of both, and of the bare copy in the place of the scan, in turn.
        size: of the part that it changes, a key of `LOOPS`; all of it is scanned.
    """
    ours, theirs, beside = [], [], []
    with (
        scan_apart() as (cpu, apart),
        PrivateRam(SIZE, "full") as ram,
        Coordinator(1) as own,
        BareCopy() as peer,
    ):
        ram.run_on(cpu)
        block = own.attach(ram.open())
        for _ in range(repeats):
            theirs.append(_seconds_per_byte(ram, size))
            with repeated(lambda: own.scan(block)):
                ours.append(_seconds_per_byte(ram, size))
            with repeated(lambda: peer.take(ram, BUFFER, 1)):
                beside.append(_seconds_per_byte(ram, size))
    return Row(
        what="a process's own loop while it is scanned, 1 channel",
        case=f"it changes each line of {LOOPS[size]}",
        peer="its loop while nothing else runs",
        ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
        aim=0.9 if size < SIZE else None,
        ours=statistics.median(ours) * PAGE * 1e9,
        theirs=statistics.median(theirs) * PAGE * 1e9,
        limit=statistics.median(beside) * PAGE * 1e9,
        detail=f"scanned again and again, {apart}; the limit: process_vm_readv in its place",
        limited_by="memory bandwidth" if size == SIZE else "the cache that both share",
    )


def _round(guest: Guest, thread: int) -> float:
    """Seconds that a round of the guest's loop takes, over the next seconds.

    Args:
        thread: the virtual CPU's.
    """
    guest.wait_check(COMMAND_S)
    rounds = 0
    start, waited = time.monotonic(), Scheduled.of(guest.pid, thread).waited
    while time.monotonic() - start < GUEST_S:
        line = guest.wait_line("CHECK ", COMMAND_S)
        rounds += 1
        if not line.endswith("OK"):
            raise RuntimeError(f"the guest found its memory changed: {line}")
    took = time.monotonic() - start
    return (took - (Scheduled.of(guest.pid, thread).waited - waited)) / rounds


def _keep_on(pid: int, cpu: int) -> None:
    """Keeps all threads of a process on one CPU."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def of_guest(repeats: int) -> Row:
    """The guest's own loop while its RAM is scanned live, again and again, and while it is not."""
    ours, theirs, scans = [], [], 0
    with (
        scan_apart() as (cpu, apart),
        tempfile.TemporaryDirectory() as folder,
        booted(folder, random_mb=GUEST_MB, zeros_mb=GUEST_MB, check_every_s=0) as (guest, path),
        Coordinator(1) as own,
    ):
        _keep_on(guest.pid, cpu)
        thread = guest.qmp("query-cpus-fast")[0]["thread-id"]
        pagecheck.scan(f"qmp:{path}", coordinator=own)
        for _ in range(repeats):
            theirs.append(_round(guest, thread))
            with repeated(lambda: pagecheck.scan(f"qmp:{path}", coordinator=own)) as done:
                ours.append(_round(guest, thread))
            scans += done()
        resident = resident_bytes(guest.pid)
    return Row(
        what=GUEST_LOOP,
        case="1 GiB guest, plain -m, 1 vCPU; md5 sums of a part of its memory",
        peer="its loop while nothing else runs",
        ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
        aim=0.9,
        ours=statistics.median(ours) * 1e3,
        theirs=statistics.median(theirs) * 1e3,
        limit=None,
        unit="ms/round",
        detail=f"{scans / repeats:.0f} scans beside each, {apart}; "
        f"QEMU has {resident >> 20} MiB in memory",
        limited_by="memory bandwidth, and QEMU's answers to the monitor; the guest is emulated",
    )


def run(repeats: int) -> list[Row]:
    """Everything in this file; the guest's row says so where a guest cannot be had."""
    rows = [of_process(repeats, size) for size in LOOPS]
    return [*rows, *if_there_is_a_guest(GUEST_LOOP, lambda: [of_guest(repeats)])]
