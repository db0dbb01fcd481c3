"""What a large host would reach, on paper: `python -m tools.bench.scale RUN`.

RUN is a JSON of tools.bench with the suites `kernels`, `costs` and `dsa`.

Nothing here was measured on such a host. The model has four servers, and the slowest one decides:

- **workers**: cores times what one of them checks, and for pages that are normal from the first
  bytes on what it samples;
- **memory**: what all cores together can read, given or assumed;
- **coordinator**: one process, so many microseconds of CPU for each batch of 2 MiB;
- **devices**: 31.7 GB/s each (published for COMPVAL on one DSA of a Sapphire Rapids), for the bytes
  of pages that pass the samples, and a worker for each that submits.

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

from tools.bench import record
from tools.bench.rows import lines_up

PAGE: Final = 4096
BATCH: Final = 2 << 20
DEVICE_GB_S: Final = 31.7  # published: COMPVAL, one device, 8 KiB and more
MEMORY_GB_S: Final = 250.0  # assumed: eight channels of DDR5-4800 (307 GB/s), 80 % of it
LINES_SAMPLED: Final = 3 * 64  # bytes of a normal page that its samples bring from memory
INSTRUCTIONS_PER_NS: Final = 3.0  # assumed: 1 a cycle at 3 GHz, for a submit path full of misses

# Share of pages that are zero.
MIXES: Final = {"all zero": 1.0, "half zero": 0.5, "a tenth zero": 0.1}


@dataclass(frozen=True)
class Constants:
    """What one run measured.

    Attributes:
        zero_ns: one core, a zero page in order.
        normal_ns: one core, a page that is normal from byte 0 on.
        submit_instructions: of a zero page, with its own descriptor.
        coordinator_us: CPU of the coordinator for a batch, mapped.
    """

    zero_ns: float
    normal_ns: float
    submit_instructions: float
    coordinator_us: float

    @classmethod
    def of(cls, run: record.Run) -> Constants:
        """Picks them from a run's rows.

        Raises:
            ValueError: the run lacks one of the suites.
        """

        def ours(suite: str, what: str, case: str) -> float:
            for row in run.suites.get(suite, ()):
                if what in row.what and row.case.startswith(case) and row.ours is not None:
                    return row.ours
            raise ValueError(f"no row {what!r}, {case!r} in suite {suite}: run tools.bench all")

        return cls(
            zero_ns=ours("kernels", "1 thread", "all zero, in order"),
            normal_ns=ours("kernels", "1 thread", "normal from byte 0, in order"),
            submit_instructions=ours("dsa", "instructions", "zero pages, a descriptor each"),
            coordinator_us=ours("costs", "coordinator's CPU", "a batch of 2 MiB, access map"),
        )


@dataclass(frozen=True)
class Host:
    """What is assumed of the host.

    Attributes:
        cores: one worker each.
        devices: DSA devices with a queue; 0: the CPU checks.
        memory_gb_s: what all cores and devices together can read.
    """

    cores: int
    devices: int
    memory_gb_s: float


def servers(constants: Constants, host: Host, zero: float) -> dict[str, float]:
    """What each server could do alone, in GB of guest RAM per second.

    Args:
        constants: of one core and one coordinator.
        host: the machine.
        zero: share of pages that are zero, 0 to 1.

    Returns:
        By the server's name; the smallest one is what the host would reach.
    """
    by_cpu = zero * constants.zero_ns
    if host.devices:
        by_cpu = zero * constants.submit_instructions / INSTRUCTIONS_PER_NS
    workers = host.cores if not host.devices else min(host.cores, host.devices)
    a_page = by_cpu + (1 - zero) * constants.normal_ns
    touched = zero * PAGE + (1 - zero) * LINES_SAMPLED
    found = {
        "workers": workers * PAGE / a_page,
        "memory": host.memory_gb_s * PAGE / touched,
        "coordinator": BATCH / constants.coordinator_us / 1e3,
    }
    if host.devices and zero:
        found["devices"] = host.devices * DEVICE_GB_S / zero
    return found


def table(constants: Constants, memory_gb_s: float) -> Iterator[tuple[str, ...]]:
    """One line per host and mix: what it would reach, and what bends first and second."""
    yield ("host", "pages", "GB/s", "first limit", "then", "at GB/s")
    for cores, devices in ((1, 0), (2, 0), (8, 0), (16, 0), (64, 0), (64, 1), (64, 4), (64, 8)):
        for mix, zero in MIXES.items():
            found = servers(constants, Host(cores, devices, memory_gb_s), zero)
            (first, reached), (then, at) = sorted(found.items(), key=lambda item: item[1])[:2]
            name = f"{cores} cores" + (f", {devices} DSA" if devices else "")
            yield (name, mix, f"{reached:.0f}", first, then, f"{at:.0f}")


@click.command(help=__doc__)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--memory-gb-s",
    type=click.FloatRange(1),
    default=MEMORY_GB_S,
    show_default=True,
    help="What all cores and devices together can read; assumed.",
)
@click.option("--json", "as_json", is_flag=True)
def main(run: Path, memory_gb_s: float, as_json: bool) -> None:
    """Prints the table."""
    try:
        constants = Constants.of(record.read(run))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    lines = list(table(constants, memory_gb_s))
    if as_json:
        print(json.dumps([dict(zip(lines[0], line, strict=True)) for line in lines[1:]], indent=1))
        return
    print(f"rests on: {constants}")
    print(lines_up(lines, text=2))


if __name__ == "__main__":
    sys.exit(main())
