"""`make mutants`, or `python -m tools.mutants [--only TEXT] [--seconds N] [--seed N]`.

Exit code 0: every mutant is noticed or listed in survivors.py; 1: one is not, or one that is listed
is noticed by now; 2: the tests fail without any mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from tools.mutants.c_mutants import c_mutants
from tools.mutants.python_mutants import python_mutants
from tools.mutants.survivors import reason
from tools.mutants.tree import BuildError, Tree
from tools.mutants.values import Mutant

WIDTH: Final = 160


def main() -> int:
    """Tries the mutants one by one, and prints what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants with this text in name or file")
    parser.add_argument("--seconds", type=float, default=1e9, help="no new one after that")
    parser.add_argument("--seed", type=int, help="in this random order; else as they are listed")
    parser.add_argument("--list", action="store_true", help="print their names")
    arguments = parser.parse_args()
    wanted = [
        each
        for each in (*c_mutants(), *python_mutants())
        if arguments.only in each.name or arguments.only in each.path
    ]
    if arguments.list:
        print(*(each.name for each in wanted), sep="\n")
        return 0
    if arguments.seed is not None:
        random.Random(arguments.seed).shuffle(wanted)
    with (
        tempfile.TemporaryDirectory(prefix="pagecheck-mutants-") as folder,
        contextlib.closing(Tree(Path(folder), os.cpu_count() or 1)) as tree,
    ):
        return _try_all(tree, wanted, arguments.seconds)


def _try_all(tree: Tree, wanted: list[Mutant], seconds: float) -> int:
    until = time.monotonic() + seconds
    tests = {test for mutant in wanted for test in mutant.tests}
    if (failing := tree.baseline(tests)) is not None:
        print(f"without any mutant {failing} fails", file=sys.stderr)
        return 2
    wrong = tried = 0
    for mutant in wanted:
        if time.monotonic() > until:
            break
        tried += 1
        wrong += not _try_one(tree, mutant)
    print(f"{tried} of {len(wanted)} mutants tried, {wrong} not as listed")
    return wrong != 0


def _try_one(tree: Tree, mutant: Mutant) -> bool:
    """Whether what becomes of it is right."""
    begun = time.monotonic()
    try:
        noticed = tree.failing(mutant)
    except BuildError as error:
        noticed = None
        print(error, file=sys.stderr)
    known = reason(mutant.name)
    verdict = "caught" if noticed else "listed" if known else "SURVIVED"
    if noticed and known:
        verdict = "caught, though listed as a survivor"
    took = time.monotonic() - begun
    print(f"{verdict:8} {took:5.1f} s  {mutant.name[:WIDTH]}  {noticed or known or ''}", flush=True)
    return bool(noticed) != bool(known)


if __name__ == "__main__":
    sys.exit(main())
