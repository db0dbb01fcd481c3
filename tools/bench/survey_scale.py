"""What a survey on many machines would take, on paper: `python -m tools.bench.survey_scale RUN`.

RUN is a JSON of tools.bench with the suite `survey`.

Nothing here was measured on such a cluster. Five servers work at the same time, and the slowest one
decides:

- **checking**: the workers' channels, at what one of them checks, and what a file costs beside;
- **network**: of each machine, for the bytes that are not holes;
- **store**: what it serves to all machines together;
- **scheduler**: one process, so much for each batch that it hands out;
- **client**: one process, which finds the files and takes the answers.

Constants come from the run; what is assumed is named below.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from pagecheck.survey.cluster import BATCH_BYTES, BYTES_OF_A_FILE, PIECE_BYTES
from tools.bench import record
from tools.bench.rows import lines_up

CHANNELS: Final = 16  # assumed: of a machine, one for each core
NETWORK_GB_S: Final = 3.1  # assumed: 25 Gbit/s for each machine
STORE_GB_S: Final = 200.0  # assumed: of a large object store, or of as many file servers
DATA: Final = 0.6  # assumed: share of a snapshot that is not a hole
DAY_S: Final = 86400


@dataclass(frozen=True)
class Constants:
    """What one run measured.

    Attributes:
        channel_gb_s: RAM that a channel checks in a second.
        file_us: of a worker's CPU for a file, beside its data.
        batch_us: of all processes of Dask, for a batch.
        find_us: of the client, to find a file.
    """

    channel_gb_s: float
    file_us: float
    batch_us: float
    find_us: float

    @classmethod
    def of(cls, run: record.Run) -> Constants:
        """Picks them from a run's rows.

        Raises:
            ValueError: the run lacks one of them.
        """

        def ours(what: str) -> float:
            for row in run.suites.get("survey", ()):
                if row.what == what and row.ours is not None:
                    return row.ours
            raise ValueError(f"no row {what!r} in suite survey: run tools.bench survey")

        from tools.bench import survey

        work = survey.FILES * survey.SIZE * survey.ROUNDS / 1e9
        return cls(
            channel_gb_s=work / (ours(survey.DASK) / 1e3) / survey.CHANNELS,
            file_us=ours(survey.TINY_FILE) * survey.CHANNELS,
            batch_us=ours(survey.BATCH),
            find_us=ours(survey.FINDING),
        )


@dataclass(frozen=True)
class Survey:
    """What is surveyed, and on what.

    Attributes:
        gib: of each file.
    """

    files: int
    gib: float
    machines: int

    @property
    def batches(self) -> int:
        """What the scheduler hands out: pieces of large files, or batches of small ones."""
        data = self.gib * (1 << 30) * DATA
        pieces = max(1, round(data / PIECE_BYTES))
        together = max(1, int(BATCH_BYTES / (data + BYTES_OF_A_FILE)))
        return self.files * pieces if pieces > 1 else -(-self.files // together)


def seconds(constants: Constants, survey: Survey) -> dict[str, float]:
    """What each server takes, alone; the largest is what the survey would take."""
    gb = survey.files * survey.gib * (1 << 30) / 1e9
    channels = survey.machines * CHANNELS
    checked = gb / constants.channel_gb_s + survey.files * constants.file_us / 1e6
    return {
        "checking": checked / channels,
        "network": gb * DATA / (survey.machines * NETWORK_GB_S),
        "store": gb * DATA / STORE_GB_S,
        "scheduler": survey.batches * constants.batch_us / 1e6,
        "client": survey.files * constants.find_us / 1e6,
    }


CASES: Final = (
    *(Survey(10_000, 64, machines) for machines in (1, 10, 100, 1000)),
    *(Survey(1, 1024, machines) for machines in (1, 10, 100)),
    *(Survey(1_000_000, 1 / 1024, machines) for machines in (1, 10, 100)),
)


def _size(gib: float) -> str:
    return f"{gib:.0f} GiB" if gib >= 1 else f"{gib * 1024:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds >= DAY_S:
        return f"{seconds / DAY_S:.1f} d"
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.1f} s"


def table(constants: Constants) -> Iterator[tuple[str, ...]]:
    """One line per survey: how long each server would take, and which one decides."""
    names = ("checking", "network", "store", "scheduler", "client")
    yield ("files", "of", "machines", "batches", *names, "takes", "limited by")
    for case in CASES:
        found = seconds(constants, case)
        limit = max(found, key=lambda name: found[name])
        yield (
            f"{case.files:,}",
            _size(case.gib),
            f"{case.machines:,}",
            f"{case.batches:,}",
            *(_time(found[name]) for name in names),
            _time(found[limit]),
            limit,
        )


def facts(constants: Constants) -> Iterator[tuple[str, str]]:
    """What the table rests on."""
    yield ("a channel checks", f"{constants.channel_gb_s:.1f} GB of RAM a second")
    yield ("a file costs beside its data", f"{constants.file_us:.0f} µs of a worker's CPU")
    yield ("a batch costs Dask", f"{constants.batch_us / 1e3:.1f} ms in all its processes")
    yield ("finding a file costs the client", f"{constants.find_us:.0f} µs")


@click.command(help=__doc__)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True)
def main(run: Path, as_json: bool) -> None:
    """Prints the table."""
    try:
        constants = Constants.of(record.read(run))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    lines = list(table(constants))
    if as_json:
        print(json.dumps([dict(zip(lines[0], line, strict=True)) for line in lines[1:]], indent=1))
        return
    for name, value in facts(constants):
        print(f"{name}: {value}")
    print(lines_up(lines, text=2))


if __name__ == "__main__":
    sys.exit(main())
