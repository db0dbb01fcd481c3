"""Reads core.txt, the mutants of the C core."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.mutants.values import Mutant

LIST: Final = Path(__file__).parent / "core.txt"


def c_mutants() -> Iterator[Mutant]:
    """All of them, in the order of the list.

    Raises:
        ValueError: the list is not written as its head says.
    """
    for part in LIST.read_text().split("\n# ")[1:]:
        name, path, *rest = part.rstrip("\n").split("\n")
        *changed, tests = rest
        old = [line[1:] for line in changed if line.startswith("-")]
        new = [line[1:] for line in changed if line.startswith("+")]
        if len(old) + len(new) != len(changed) or not tests.startswith("tests: "):
            raise ValueError(f"{LIST}: not a mutant: {name}")
        yield Mutant(name, path, "\n".join(old), "\n".join(new), tuple(tests.split()[1:]))
