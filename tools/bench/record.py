"""A run of the benchmarks as a JSON file, and what moved from one run to another.

A ratio is only as good as its run: the file names the command, the machine and the commit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pagecheck.native import _native
from tools.bench.data import ROOT
from tools.bench.rows import Row, Spread, lines_up

FORMAT: Final = 1
# What has to be the same before ratios of two runs may be compared.
_SAME: Final = ("cpu", "cpus", "kernel", "zero-check kernel")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        command: as it was typed.
        machine: what ran it; see `machine`.
        suites: rows by the name of the suite, in the order in which they ran.
    """

    command: str
    machine: dict[str, str]
    suites: dict[str, list[Row]]

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return [row for rows in self.suites.values() for row in rows]


def _first(path: str, key: str = "") -> str:
    """The value of a `key : value` line, or a file's first line; empty where there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    if not key:
        return lines[0] if lines else ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _caches() -> str:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = _first(f"{index}/level"), _first(f"{index}/type")
        if kind != "Instruction":
            found.append(f"L{level} {_first(f'{index}/size')}")
    return ", ".join(found)


def machine() -> dict[str, str]:
    """What a reader has to know about this machine; a value that it does not tell is empty."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "caches": _caches(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "tmpfs huge pages": _first("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "python": platform.python_version(),
        "zero-check kernel": _native.kernel_auto(),
        "commit": _commit(),
    }


def write(run: Run, path: Path) -> None:
    """Writes a run; the file is replaced, its folder is made.

    Raises:
        OSError: it cannot be written.
    """
    suites = {
        name: [dataclasses.asdict(row) | {"reached": row.reached} for row in rows]
        for name, rows in run.suites.items()
    }
    whole = {"format": FORMAT, "command": run.command, "machine": run.machine, "suites": suites}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")


def _row(fields: dict[str, Any]) -> Row:
    del fields["reached"]
    if fields["ratio"] is not None:
        fields["ratio"] = Spread(**fields["ratio"])
    return Row(**fields)


def read(path: Path) -> Run:
    """Reads what `write` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file; the message names it.
    """
    try:
        whole = json.loads(path.read_text())
        if whole["format"] != FORMAT:
            raise ValueError(f"{path}: format {whole['format']}, not {FORMAT}: measure again")
        suites = {name: [_row(row) for row in rows] for name, rows in whole["suites"].items()}
        return Run(whole["command"], whole["machine"], suites)
    except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a run of tools.bench: {error!r}") from error


def _span(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.minimum:.2f}-{ratio.maximum:.2f})"


def moved(old: Spread, new: Spread) -> bool:
    """Whether each median lies outside of what the other run saw: more than the runs' own spread.

    Args:
        old: the ratio in one run.
        new: the same in another.
    """
    return not (
        old.minimum <= new.median <= old.maximum or new.minimum <= old.median <= new.maximum
    )


def compare(old: Run, new: Run) -> Iterator[str]:
    """What moved beyond both runs' spread, as lines for a terminal.

    Args:
        old: the run before.
        new: the run now.

    Yields:
        Warnings about the machines, a table of what moved, and how much else there was.
    """
    for key in _SAME:
        if old.machine.get(key) != new.machine.get(key):
            was, now = old.machine.get(key), new.machine.get(key)
            yield f"another machine, so a row says little: {key} was {was}, is {now}"
    before = {row.name: row for row in old.rows if row.ratio is not None}
    after = {row.name: row for row in new.rows if row.ratio is not None}
    both = [(before[name], row) for name, row in after.items() if name in before]
    lines = [
        (
            *row.name,
            _span(was.ratio),
            _span(row.ratio),
            f"{row.ratio.median / was.ratio.median - 1:+.0%}",
        )
        for was, row in both
        if was.ratio and row.ratio and moved(was.ratio, row.ratio)
    ]
    if lines:
        yield lines_up([("what", "case", "peer", "was", "is", ""), *lines], text=3)
    yield f"{len(lines)} of {len(both)} rows moved beyond both runs' spread"
    if alone := len(before.keys() ^ after.keys()):
        yield f"{alone} rows are in one of the runs only"
