"""One actor of a long run, a process of its own, which uses the service in one way.

`python -m tools.soak.actor ROLE SOCKET FOLDER SEED PAGES`: for each line SECONDS on stdin it
connects anew, does what its role does that long, and answers with one line of JSON.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from pagecheck import PagecheckError
from pagecheck.selftest.wrong import Wrong
from tools.bench.data import ROOT
from tools.soak.roles import LOADS, RAM_PAGES, ROLES, Actor, Turn

ANSWER_S: Final = 120
"""What an actor may take to begin, and beyond its turn to answer."""


class Done(NamedTuple):
    """What an actor did in one turn.

    Attributes:
        things: how many it did.
        again: how often it tried again.
        percentiles_us: median, 99th and 99.9th percentile and the longest of their times.
        error: what ended the turn early, or None.
    """

    role: str
    things: int
    again: int
    percentiles_us: tuple[float, float, float, float]
    error: str | None


def _turn(role: str, actor: Actor, seconds: float) -> Done:
    turn = Turn(seconds)
    error = None
    try:
        {**ROLES, **LOADS}[role](actor, turn)
    except (Wrong, PagecheckError, OSError) as caught:
        error = f"{type(caught).__name__}: {caught}"
    waits = np.array(turn.waits or [0.0]) * 1e6
    found = [float(x) for x in np.percentile(waits, [50, 99, 99.9, 100])]
    p50, p99, p999, longest = (round(x, 1) for x in found)
    return Done(role, len(turn.waits), turn.again, (p50, p99, p999, longest), error)


def main() -> None:
    """Goes on until stdin ends."""
    role, socket, folder, seed, pages = sys.argv[1:]
    actor = Actor(socket, Path(folder), int(seed), int(pages))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_turn(role, actor, float(line))), flush=True)


class ActorProcess:
    """The parent's end of an actor; a context manager."""

    def __init__(
        self, role: str, socket: str, folder: Path, seed: int, pages: int = RAM_PAGES
    ) -> None:
        """Starts it, and waits until its RAM is made."""
        self.role = role
        command = [sys.executable, "-m", "tools.soak.actor", role, socket, str(folder)]
        command += [str(seed), str(pages)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._turn_s = 0.0
        self._line()

    def start(self, seconds: float) -> None:
        """Begins a turn."""
        self._turn_s = seconds
        stdin: Any = self._process.stdin
        print(seconds, file=stdin, flush=True)

    def result(self) -> Done:
        """Waits for the end of the turn; an actor that is late is ended, and a RuntimeError."""
        role, things, again, percentiles, error = json.loads(self._line())
        return Done(role, things, again, tuple(percentiles), error)

    def _line(self) -> str:
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], self._turn_s + ANSWER_S)[0]:
            self._process.kill()
            raise RuntimeError(f"the actor {self.role} did not answer")
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"the actor {self.role} ended with {self._process.wait()}")
        return line

    def __enter__(self) -> ActorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


if __name__ == "__main__":
    main()
