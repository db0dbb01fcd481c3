"""Surveys of many files: against a loop of scans, and on a Dask cluster against one process.

The files are in /dev/shm, so that it is pagecheck that is measured. The cluster's times are those
of its work, from the first batch to the last: a cluster that stays is started once.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pagecheck.errors import EngineError
from pagecheck.survey.cluster import AHEAD, ClusterRunner
from pagecheck.survey.find import find
from pagecheck.survey.local import LocalRunner
from pagecheck.survey.scheduler import Connection
from pagecheck.survey.split import pieces
from pagecheck.survey.values import Failed, Options, Target
from pagecheck.survey.work import Runner
from tools.bench import objects
from tools.bench.commands import command_seconds, pagecheck_command
from tools.bench.rows import Row, Spread

FILES: Final = 64
SIZE: Final = 64 << 20
PAGE: Final = 4096
TINY: Final = 10_000
CHANNELS: Final = 2
TASKS: Final = 1000
TASK_S: Final = 5e-3
FIND_S: Final = 50e-6
DASK: Final = "survey on a local Dask cluster of two"
TINY_FILE: Final = f"{DASK}, time of a file"
BATCH: Final = "scheduling of a batch by Dask"
FINDING: Final = "finding a file"
ROUNDS: Final = 8  # of the 64 files, so that the work takes some seconds
MIX: Final = "64 files of 64 MiB in tmpfs: zeros, half zero, half holes, random"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    path = Path(f"/dev/shm/pagecheck-bench-{os.getpid()}-survey")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def mixed_files() -> Iterator[Path]:
    """A folder with files of four kinds."""
    rng = np.random.default_rng(1)
    with _folder() as folder:
        for number in range(FILES):
            with (folder / f"vm-{number:03}.ram").open("wb") as file:
                _fill(file.fileno(), number % 4, rng)
        yield folder


def _fill(fd: int, kind: int, rng: np.random.Generator) -> None:
    count = SIZE // PAGE
    if kind == 3:
        os.pwrite(fd, rng.bytes(SIZE), 0)
        return
    pages = np.zeros((count, PAGE), np.uint8)
    if kind == 0:
        os.pwrite(fd, pages.data, 0)
        return
    pages[rng.random(count) < 0.5] = 0x55
    if kind == 1:
        os.pwrite(fd, pages.data, 0)
        return
    os.truncate(fd, SIZE)
    run = 16  # pages: half of the runs are holes
    for first in range(0, count, run):
        if rng.random() < 0.5:
            os.pwrite(fd, pages[first : first + run].tobytes(), first * PAGE)


@contextlib.contextmanager
def tiny_files() -> Iterator[Path]:
    """A folder with 10 000 files of one page."""
    with _folder() as folder:
        for number in range(TINY):
            (folder / f"{number:05}.ram").write_bytes(bytes(PAGE))
        yield folder


def against_loops(repeats: int, folder: Path) -> list[Row]:
    """The whole command against a shell's loop of scans and `xargs -P2`, theirs started anew for
    each file."""
    scan = shlex.join([pagecheck_command(), "scan"])
    peers = {
        "for each file: pagecheck scan": (f'for f in {folder}/*; do {scan} "$f"; done', 3.0),
        "xargs -P2 pagecheck scan": (f"printf '%s\\0' {folder}/* | xargs -0 -n1 -P2 {scan}", 1.5),
    }
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeats):
        ours.append(command_seconds([pagecheck_command(), "survey", str(folder)]))
        for name, (script, _aim) in peers.items():
            theirs[name].append(command_seconds(["sh", "-c", script]))
    return [
        Row.of_seconds(
            ours,
            theirs[name],
            what="pagecheck survey, the whole command",
            case=MIX,
            peer=name,
            aim=aim,
            limited_by="reading tmpfs pages; the start of one Python instead of 64",
        )
        for name, (_, aim) in peers.items()
    ]


def _worked(runner: Runner, targets: Sequence[Target], rounds: int = 1) -> float:
    """Seconds that a runner, which is ready, takes to check all targets so often."""
    work = (each for _ in range(rounds) for t in targets for each in pieces(t, runner.piece_bytes))
    start = time.perf_counter()
    for answer in runner.run(work, lambda: None):
        if isinstance(answer, Failed):
            raise RuntimeError(answer)
    return time.perf_counter() - start


def _targets(folder: Path) -> list[Target]:
    return [each for each in find([str(folder)]) if isinstance(each, Target)]


def _compared(folder: Path, repeats: int, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of two local Dask workers and of one process with two channels."""
    targets = _targets(folder)
    ours, theirs = [], []
    for _ in range(repeats):
        with ClusterRunner(Options(), workers=CHANNELS, channels=1) as cluster:
            ours.append(_worked(cluster, targets, rounds))
        with LocalRunner(Options(), CHANNELS) as local:
            theirs.append(_worked(local, targets, rounds))
    return ours, theirs


def on_a_cluster(repeats: int, folder: Path) -> Row:
    """Two Dask workers with a channel each against one process with two channels."""
    ours, theirs = _compared(folder, repeats, ROUNDS)
    gb = FILES * SIZE * ROUNDS / 1e9
    return Row.of_seconds(
        ours,
        theirs,
        what=DASK,
        case=f"{MIX}, {ROUNDS} times",
        peer="one process, two channels",
        aim=0.85,
        detail=f"{gb / min(ours):.1f} GB/s at best",
        limited_by="Dask's scheduler and client on the same two CPUs",
    )


def of_tiny_files(repeats: int, folder: Path) -> Row:
    """What a file costs beside its data."""
    ours, theirs = _compared(folder, repeats, 1)
    return Row(
        what=TINY_FILE,
        case=f"{TINY:,} files of one page in tmpfs",
        peer="one process, two channels",
        ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
        aim=None,
        ours=statistics.median(ours) / TINY * 1e6,
        theirs=statistics.median(theirs) / TINY * 1e6,
        limit=None,
        unit="us",
        limited_by="opening and attaching a file, its bitmaps; Dask's share is the next row",
    )


def of_finding(repeats: int, folder: Path) -> Row:
    """What it costs to find a file, in one thread."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        _targets(folder)
        seconds.append((time.perf_counter() - start) / TINY)
    return Row(
        what=FINDING,
        case=f"{TINY:,} files in a folder in tmpfs",
        peer="the most that is wanted",
        ratio=Spread.of([FIND_S / each for each in seconds]),
        aim=1.0,
        ours=statistics.median(seconds) * 1e6,
        theirs=FIND_S * 1e6,
        limit=None,
        unit="us",
        limited_by="lstat(2), and what Python makes of it",
    )


def of_tasks(repeats: int) -> Row:
    """What a task costs Dask: empty batches, as many out at a time as in a survey."""
    seconds = [_seconds_of_a_task() for _ in range(repeats)]
    return Row(
        what=BATCH,
        case="2 local workers, empty batches",
        peer="the most that is wanted",
        ratio=Spread.of([TASK_S / each for each in seconds]),
        aim=1.0,
        ours=statistics.median(seconds) * 1e6,
        theirs=TASK_S * 1e6,
        limit=None,
        unit="us",
        detail="client, scheduler and workers on the same two CPUs",
        limited_by="Python: about ten messages between three processes for each task",
    )


def _seconds_of_a_task() -> float:
    connection = Connection(Options(), 1, None, CHANNELS)
    try:
        connection.open()
        connection.begin([], lambda: None)
        start = time.perf_counter()
        for number in range(AHEAD * CHANNELS):
            connection.submit(number, ())
        for number in range(TASKS):
            while connection.next() is None:
                pass
            if number < TASKS - AHEAD * CHANNELS:
                connection.submit(AHEAD * CHANNELS + number, ())
        return (time.perf_counter() - start) / TASKS
    finally:
        connection.close()


def run(repeats: int) -> list[Row]:
    """Everything in this file, and objects of a store."""
    few = min(repeats, 5)
    with mixed_files() as folder:
        rows = against_loops(few, folder)
        rows += _if_installed(DASK, lambda: [on_a_cluster(few, folder)])
    with tiny_files() as folder:
        rows.append(of_finding(few, folder))
        rows += _if_installed(DASK, lambda: [of_tiny_files(min(few, 3), folder)])
    rows += _if_installed(DASK, lambda: [of_tasks(min(few, 3))])
    return [*rows, *_if_installed("an object of S3", lambda: objects.run(few))]


def _if_installed(what: str, measure: Callable[[], list[Row]]) -> list[Row]:
    try:
        return measure()
    except EngineError as error:
        return [Row(what, "", "", None, None, None, None, None, note=str(error))]
    except subprocess.CalledProcessError as error:
        return [Row("survey", "", "", None, None, None, None, None, note=str(error))]
