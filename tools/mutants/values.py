"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one file.

    Attributes:
        name: what is wrong in it; unique.
        path: file, from the top of the tree.
        old: text that is in it exactly once.
        new: text in its place.
        tests: programs of tests/native, or arguments of pytest.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutated(text: str, mutant: Mutant) -> str:
    """The file with the change.

    Raises:
        ValueError: the text to change is not there exactly once.
    """
    found = text.count(mutant.old)
    if found != 1:
        raise ValueError(f"{mutant.name}: {mutant.path} has its text {found} times, not once")
    return text.replace(mutant.old, mutant.new)
