"""A real guest under a plain `-m`: how long it stands still, and how fast it runs while it is
scanned.

QEMU runs it under TCG. Its own loop is that of init.sh: md5 sums of what it keeps in its memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tools.bench.commands import pagecheck_command
from tools.bench.data import BUILD
from tools.bench.rows import Row, Spread
from tools.guest import Guest, MissingPiece

SIZE: Final = 1 << 30
RANDOM_MB: Final = 200
ZEROS_MB: Final = 100
COMMAND_S: Final = 120.0
PAUSE_AIM: Final = 4.0
PAUSED: Final = "pause of pagecheck scan --pause qmp:"


@contextlib.contextmanager
def booted(folder: str, **how: Any) -> Iterator[tuple[Guest, str]]:
    """A guest that has filled a part of its memory, and the path of a monitor of its own for us."""
    path = f"{folder}/qmp"
    more = ("-qmp", f"unix:{path},server=on,wait=off")
    with Guest.boot(size_bytes=SIZE, backend="private", extra=more, timeout_s=600, **how) as guest:
        yield guest, path


def _ours(path: str, out: Path) -> float:
    """Seconds for which `pagecheck scan --pause` kept the guest stopped."""
    command = [pagecheck_command(), "scan", "--pause", "--max-pause", "60", "--json"]
    command += ["--out", str(out), f"qmp:{path}"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    undecided = sum(block["undecided"] for block in report["blocks"])
    if report["answer"] != "paused" or undecided:
        raise RuntimeError(f"{undecided} pages were not decided in the pause: {report['notes']}")
    return float(report["pause"]["seconds"])


def _theirs(guest: Guest, command: str, **arguments: Any) -> float:
    """Seconds from before the stop until the guest runs again, with a command in between."""
    start = time.monotonic()
    guest.qmp("stop")
    guest.qmp(command, within_s=COMMAND_S, **arguments)
    guest.qmp("cont")
    return time.monotonic() - start


def pauses(repeats: int) -> list[Row]:
    """A scan in a pause, its bitmaps on the disk, against QEMU's own ways to write RAM to it."""
    ours: list[float] = []
    peers: dict[str, list[float]] = {"pmemsave": [], "dump-guest-memory": []}
    BUILD.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
        booted(folder, random_mb=RANDOM_MB, zeros_mb=ZEROS_MB, check_every_s=2) as (guest, path),
    ):
        file = Path(folder) / "ram"
        for _ in range(repeats):
            ours.append(_ours(path, Path(folder) / "out"))
            saved = _theirs(guest, "pmemsave", val=0, size=SIZE, filename=str(file))
            peers["pmemsave"].append(saved)
            file.unlink()  # what the kernel has not written yet never is
            dumped = _theirs(guest, "dump-guest-memory", paging=False, protocol=f"file:{file}")
            peers["dump-guest-memory"].append(dumped)
            file.unlink()
        resident = resident_bytes(guest.pid)
    return [_pause_row(name, ours, theirs, resident) for name, theirs in peers.items()]


def resident_bytes(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _pause_row(peer: str, ours: list[float], theirs: list[float], resident: int) -> Row:
    return Row(
        what=PAUSED,
        case="1 GiB guest, plain -m",
        peer=f"QEMU's {peer}",
        ratio=Spread.of([t / o for o, t in zip(ours, theirs, strict=True)]),
        aim=PAUSE_AIM,
        ours=statistics.median(ours) * 1e3,
        theirs=statistics.median(theirs) * 1e3,
        limit=None,
        unit="ms",
        detail=f"QEMU has {resident >> 20} MiB in memory",
        limited_by="the copy of the pages that are there",
    )


def if_there_is_a_guest(case: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows that need a guest, or one that says what is missing.

    Args:
        case: what that one row is about.
        measure: makes the rows.
    """
    try:
        return measure()
    except MissingPiece as error:
        return [Row(case, "", "", None, None, None, None, None, note=str(error))]


def run(repeats: int) -> list[Row]:
    """Everything in this file, where a guest can be had."""
    return if_there_is_a_guest(PAUSED, lambda: pauses(repeats))
