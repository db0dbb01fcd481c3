"""`python -m tools.soak run` and `python -m tools.soak load`: long runs against a real service.

`run` lets clients, scans, direct channels and saves use one service, kills its workers and
clients, and looks at it at rest after every turn. `load` raises the number of clients and channels
until the service refuses. Wrong answers, and whatever grows, are faults: exit code 1.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from tools.bench.data import BUILD
from tools.bench.record import machine
from tools.soak.load import CHANNELS, CLIENTS, load
from tools.soak.run import soak

TURNS = 30


@click.group(help=__doc__)
def main() -> None:
    """The commands are below."""


@main.command("run")
@click.option("--minutes", type=click.FloatRange(0.1), default=30.0, show_default=True)
@click.option("--turns", type=click.IntRange(2), default=TURNS, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), default=BUILD / "soak.json")
def run_command(minutes: float, turns: int, seed: int, path: Path) -> None:
    """Clients, scans, direct channels, saves, kills and restarts: what grows, what gets slower?"""

    def told(done: int) -> None:
        click.echo(f"turn {done} of {turns}", err=True)

    with tempfile.TemporaryDirectory(prefix="pagecheck-soak-") as folder:
        found = soak(minutes * 60 / turns, turns, seed, Path(folder), told)
    print(found.table)
    windows = [
        {
            **window.rest._asdict(),
            "killed": window.killed,
            "done": [each._asdict() for each in window.done],
        }
        for window in found.windows
    ]
    _end(path, {"turns": windows}, found.faults)


@main.command("load")
@click.option("--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), default=BUILD / "load.json")
def load_command(seconds: float, path: Path) -> None:
    """Clients and channels raised until the service is full: how much, how quickly, how fairly?"""
    click.echo(f"{len(CLIENTS) + len(CHANNELS)} steps of {seconds:g} s", err=True)
    with tempfile.TemporaryDirectory(prefix="pagecheck-soak-") as folder:
        found = load(seconds, Path(folder))
    print(found.table)
    for line in found.refused:
        print(line)
    steps = [
        {
            "what": step.what,
            "at_once": len(step.done),
            "alone_us": step.alone_us,
            "share_us": step.share_us,
            "worst": round(step.worst, 3),
            "done": [each._asdict() for each in step.done],
        }
        for step in found.steps
    ]
    _end(path, {"steps": steps, "refused": found.refused}, found.faults)


def _end(path: Path, found: dict[str, Any], faults: list[str]) -> None:
    """Writes the JSON, prints what is wrong, and ends."""
    command = shlex.join(["python", "-m", "tools.soak", *sys.argv[1:]])
    whole = {"command": command, "machine": machine(), **found, "faults": faults}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\nthe same as JSON: {path}")
    for line in faults:
        print(f"fault: {line}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
