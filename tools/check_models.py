"""`python -m tools.check_models`: Spin over the models of docs/models.

The protocol as it is has to hold in every run; each mutant, which has one rule of it broken, has to
be caught. Needs spin and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

MODEL: Final = Path(__file__).parents[1] / "docs/models/ring.pml"
LIMIT_S: Final = 300.0
DEPTH_MAX: Final = 100_000

WAKES: Final = ("BATCHES=2", "DEATH=0")
DIRECT: Final = ("BATCHES=2", "DIRECT=1")
REPLACED: Final = ("BATCHES=2",)
ABANDONED: Final = ("BATCHES=4", "DEATH=0", "ABANDON=1")

# What has to hold.
CORRECT: Final = {
    "no worker dies": ("BATCHES=5", "DEATH=0"),
    "a direct channel's worker dies": DIRECT,
    "a worker dies and is replaced": REPLACED,
    "a job is abandoned": ABANDONED,
}
# Mutant: in which of these it shows.
MUTANTS: Final = {
    "NO_SUBMIT_FENCE": WAKES,
    "NO_ASLEEP_FENCE": WAKES,
    "NO_ANSWER_FENCE": WAKES,
    "NO_WAKE_AT_FENCE": WAKES,
    "RELAXED_REQUEST": WAKES,
    "RELAXED_ANSWER": WAKES,
    "ANSWER_BEFORE_BITS": WAKES,
    "WORKER_SLEEPS_UNCHECKED": WAKES,
    "SUBMITTER_SLEEPS_UNCHECKED": WAKES,
    "ATTENTION_UNCHECKED": WAKES,
    "WAKES_PAST_ONLY": WAKES,
    "DONE_SEEN_LATE": WAKES,
    "SUBMIT_SEEN_LATE": WAKES,
    "NO_SUBMIT_INCREMENT": WAKES,
    "NO_DONE_INCREMENT": WAKES,
    "ATTENTION_AFTER_SUBMIT": WAKES,
    "NO_ATTENTION_INCREMENT": WAKES,
    "GONE_AFTER_DONE": DIRECT,
    "GONE_READ_LAST": DIRECT,
    "NO_WAKE_WHEN_GONE": DIRECT,
    "NO_GONE_INCREMENT": DIRECT,
    "ABANDONED_TAKEN": ABANDONED,
    "ABANDONED_SLOT_FREE": ABANDONED,
    "ANY_ANSWER": ("BATCHES=3", "DEATH=0"),
    "SAME_RING": ("BATCHES=3",),
}


class Result(NamedTuple):
    """What Spin found.

    Attributes:
        name: of the run.
        is_mutant: it has to be caught.
        fault: what Spin found wrong; empty: nothing, in every state.
        states: different states that were seen.
    """

    name: str
    is_mutant: bool
    fault: str
    states: int
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether it ended as it has to."""
        return bool(self.fault) == self.is_mutant


def check(name: str, flags: tuple[str, ...], *, is_mutant: bool) -> Result:
    """Checks one variant of the model, all of its states.

    Raises:
        RuntimeError: Spin or the compiler fails, or not all states could be seen.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pagecheck-models-") as folder:
        _run(folder, "spin", "-a", *(f"-D{flag}" for flag in flags), str(MODEL))
        _run(folder, "cc", "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")
        text = _run(folder, "./pan", f"-m{DEPTH_MAX}", "-w22")
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"([\d.e+]+) states, stored", text)
    # After a fault the search ends, too; without one it ends early where memory is short.
    is_cut = "Search not completed" in text and errors is not None and int(errors[1]) == 0
    if errors is None or states is None or is_cut or "max search depth too small" in text:
        raise RuntimeError(f"{name}: the search was not completed: {text[-300:]}")
    fault = re.search(r"pan:1: (.+?) \(at depth", text) if int(errors[1]) else None
    return Result(
        name,
        is_mutant,
        fault[1] if fault else "",
        int(float(states[1])),
        time.monotonic() - begun,
    )


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def main() -> int:
    """Prints a table; 0 if everything ended as it has to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if shutil.which("spin") is None:
        print("models: spin is missing; apt-get install spin", file=sys.stderr)
        return 2
    runs = [(name, flags, False) for name, flags in CORRECT.items()]
    runs += [(name, (*flags, f"M_{name}=1"), True) for name, flags in MUTANTS.items()]
    results = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # threads that wait for spin, cc and pan
        for result in pool.map(lambda run: check(run[0], run[1], is_mutant=run[2]), runs):
            results.append(result)
            if not arguments.json:
                found = result.fault or "holds"
                verdict = "ok" if result.is_right else "WRONG"
                print(
                    f"{verdict:5}  {result.name:32} {result.states:>10,} states  {found}",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps([{**each._asdict(), "is_right": each.is_right} for each in results]))
    return 0 if all(each.is_right for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
