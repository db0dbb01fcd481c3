"""What a look at a file gives, and the lines that people get of it."""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Found(NamedTuple):
    """What a file looks like.

    Attributes:
        name: of the format, with its article, such as "an ELF core".
        way_out: what makes raw guest RAM of it; FILE stands for the file's name.
        doubt: None where the header is consistent with all of the file; else what does not fit, or
            cannot be checked.
    """

    name: str
    way_out: str
    doubt: str | None = None


def refusal(text: str, found: Found) -> str:
    """The line on a file that is certainly something else."""
    return (
        f"{text}: is {found.name}, not raw guest RAM; {_command(text, found)}; --format raw takes "
        "it for raw RAM all the same"
    )


def note(text: str, found: Found) -> str:
    """The line on a file that may be something else."""
    return (
        f"{text}: begins like {found.name}, but {found.doubt}: taken for raw guest RAM; if it is "
        f"one: {_command(text, found)}; --format raw drops this note"
    )


def _command(text: str, found: Found) -> str:
    name = f"/dev/shm{text.removeprefix('shm:')}" if text.startswith("shm:") else text
    return found.way_out.replace("FILE", "FILE" if text.startswith("fd:") else shlex.quote(name))
