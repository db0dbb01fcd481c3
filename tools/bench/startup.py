"""What a small scan costs: the whole command against a bare interpreter, and a scan in a program
that goes on."""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pagecheck
from tools.bench.rows import Row, Spread

SIZE = 1 << 20
WARM_MS = 10.0


@contextlib.contextmanager
def _ram() -> Iterator[str]:
    """The path of a file of zeros, in memory."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="pagecheck-bench-") as file:
        file.write(bytes(SIZE))
        file.flush()
        yield file.name


def _environment() -> dict[str, str]:
    """Ours, less what keeps an interpreter from using compiled modules, as few users have it."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _milliseconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    return (time.perf_counter() - start) * 1e3


def _installed() -> str:
    """How the pagecheck of this environment is installed."""
    return "installed" if "site-packages" in str(pagecheck.__file__) else "editable install"


def whole_commands(repeats: int) -> list[Row]:
    """`pagecheck`, start to end, against a Python that does nothing, of the same environment."""
    bare = [sys.executable, "-c", "pass"]
    program = str(Path(sys.executable).parent / "pagecheck")
    with _ram() as ram:
        cases = (
            ("pagecheck scan of 1 MiB", [program, "scan", ram], 1 / 5),
            ("pagecheck --version", [program, "--version"], 1 / 2.5),
        )
        return [_against_bare(repeats, what, ours, bare, aim) for what, ours, aim in cases]


def _against_bare(repeats: int, what: str, ours: list[str], bare: list[str], aim: float) -> Row:
    _milliseconds(ours)  # compiles what was not compiled yet
    pairs = [(_milliseconds(ours), _milliseconds(bare)) for _ in range(max(5, repeats))]
    return Row(
        what=f"{what}, the whole command",
        case=_installed(),
        peer="python3 -c pass",
        ratio=Spread.of([theirs / mine for mine, theirs in pairs]),
        aim=aim,
        ours=statistics.median(mine for mine, _theirs in pairs),
        theirs=statistics.median(theirs for _mine, theirs in pairs),
        limit=None,
        unit="ms",
        limited_by="two starts of Python, and a worker's self-test" if "scan" in what else "Python",
    )


def warm(repeats: int) -> list[Row]:
    """`pagecheck.scan` with the workers of a coordinator that stays, all but the first."""
    taken = []
    with _ram() as ram, pagecheck.Coordinator() as coordinator:
        for _ in range(max(5, repeats) + 1):
            start = time.perf_counter()
            pagecheck.scan(ram, coordinator=coordinator)
            taken.append((time.perf_counter() - start) * 1e3)
        channels = coordinator.channels
    del taken[0]
    row = Row(
        what="pagecheck.scan of 1 MiB, not the first",
        case=f"workers of a Coordinator that stays: {channels}",
        peer="the most that is wanted",
        ratio=Spread.of([WARM_MS / each for each in taken]),
        aim=1.0,
        ours=statistics.median(taken),
        theirs=WARM_MS,
        limit=None,
        unit="ms",
        limited_by="Python around two batches, and the report",
    )
    return [row]


def run(repeats: int) -> list[Row]:
    """Everything in this file."""
    return [*whole_commands(repeats), *warm(repeats)]
