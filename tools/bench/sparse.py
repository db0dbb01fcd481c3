"""Files with many holes: the whole command, against the scan of a file without holes.

Each file system but tmpfs is made in a loop device, which needs root. All files are in the page
cache when they are measured, and the commands that are compared take turns.
"""

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tools.bench.commands import pagecheck_command
from tools.bench.data import BUILD
from tools.bench.rows import Row, Spread

PAGE: Final = 4096
TIB: Final = 1 << 40
SYSTEMS: Final = ("tmpfs", "ext4", "xfs", "btrfs")
LIMITED_BY: Final = "a lookup and a read for each page with data"


class _Took(NamedTuple):
    """Seconds of one command and of its children."""

    wall: float
    cpu: float


def _command(*command: str) -> _Took:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return _Took(time.perf_counter() - start, used.ru_utime + used.ru_stime)


@contextlib.contextmanager
def _folder(kind: str) -> Iterator[Path | None]:
    """A folder on such a file system; None where it cannot be had."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if kind == "tmpfs" else BUILD) as name:
        at = Path(name)
        if kind == "tmpfs":
            yield at
            return
        image, mount = at / "image", at / "mount"
        mount.mkdir()
        steps = (
            ["truncate", "-s", "4G", str(image)],
            [f"mkfs.{kind}", "-q", str(image)],
            ["mount", "-o", "loop", str(image), str(mount)],
        )
        try:
            for step in steps:
                subprocess.run(step, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        try:
            yield mount
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def _file(path: Path, size: int, has_data: Callable[[int], bool]) -> Path:
    """Random bytes in the pages that have data."""
    some = random.Random(1).randbytes(2 * PAGE)
    with path.open("wb") as file:
        file.truncate(size)
        for page in filter(has_data, range(size // PAGE)):
            begin = page % PAGE
            os.pwrite(file.fileno(), some[begin : begin + PAGE], page * PAGE)
        os.fsync(file.fileno())
    return path


def _row(
    what: str, case: str, peer: str, aim: float | None, took: list[tuple[float, float]]
) -> Row:
    """Of (ours, theirs) in seconds."""
    return Row(
        what=what,
        case=case,
        peer=peer,
        ratio=Spread.of([theirs / ours for ours, theirs in took]),
        aim=aim,
        ours=statistics.median(ours for ours, _ in took) * 1e3,
        theirs=statistics.median(theirs for _, theirs in took) * 1e3,
        limit=None,
        unit="ms",
        limited_by=LIMITED_BY,
    )


def fragmented(repeats: int, kind: str, size: int) -> list[Row]:
    """A file whose every second page is a hole, and one where chance decides."""
    rng = random.Random(2)
    where = f"{size / (1 << 30):g} GiB on {kind}"
    with _folder(kind) as at:
        if at is None:
            missing = f"needs root, and mkfs.{kind}"
            return [Row("pagecheck scan", where, "-", None, None, None, None, None, note=missing)]
        dense = _file(at / "dense", size, lambda _page: True)
        files = {
            "each second page a hole": _file(at / "second", size, lambda page: page % 2 == 0),
            "half of the pages holes": _file(at / "half", size, lambda _page: rng.random() < 0.5),
        }
        rows = []
        for what, path in files.items():
            ours, theirs, maps = [], [], []
            for _ in range(repeats):
                ours.append(_command(pagecheck_command(), "scan", str(path)))
                theirs.append(_command(pagecheck_command(), "scan", str(dense)))
                if shutil.which("qemu-img"):
                    maps.append(_command("qemu-img", "map", "-f", "raw", str(path)))
            case = f"{where}, {what}"
            pairs = list(zip(ours, theirs, strict=True))
            walls = [(a.wall, b.wall) for a, b in pairs]
            cpus = [(a.cpu, b.cpu) for a, b in pairs]
            rows += [
                _row("pagecheck scan", case, "the dense file's scan", 1 / 1.3, walls),
                _row("pagecheck scan, CPU time", case, "the dense file's scan", None, cpus),
            ]
            if maps:
                both = [(a.wall, b.wall) for a, b in zip(ours, maps, strict=True)]
                rows.append(
                    _row("pagecheck scan", case, "qemu-img map, which reads no data", None, both)
                )
    return rows


def _huge(repeats: int, kind: str) -> list[Row]:
    """1 TiB with 10 000 extents of 4 pages: what the scan takes beyond the start of its workers."""
    rng = random.Random(1)
    with _folder(kind) as at:
        if at is None:
            return []
        path = at / "huge"
        with path.open("wb") as file:
            file.truncate(TIB)
            for _ in range(10_000):
                os.pwrite(
                    file.fileno(), rng.randbytes(4 * PAGE), rng.randrange(TIB // PAGE - 4) * PAGE
                )
        seconds = []
        for _ in range(repeats):
            command = [pagecheck_command(), "scan", "--json", str(path)]
            report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            seconds.append((report["seconds"] - report["startup_seconds"], 0.2))
    case = f"1 TiB on {kind}, 10 000 extents of 16 KiB"
    row = _row("pagecheck scan, beyond start-up", case, "the most that is wanted", 1, seconds)
    return [row]


def run(repeats: int) -> list[Row]:
    """Everything in this file."""
    rows = []
    for kind in SYSTEMS:
        for size in (512 << 20, 1 << 30):
            rows += fragmented(repeats, kind, size)
    for kind in SYSTEMS:
        rows += _huge(repeats, kind)
    return rows
