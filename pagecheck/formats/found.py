"""The result of identifying a file, and the messages made of it."""

from __future__ import annotations

import shlex
from typing import NamedTuple


class Found(NamedTuple):
    """What a file looks like.

    Attributes:
        name: of the format, with its article, such as "an ELF core".
        remedy: how to get raw guest RAM from it; FILE stands for the file's name.
        doubt: None where the header is consistent with the whole file; else what is inconsistent,
            or cannot be checked.
    """

    name: str
    remedy: str
    doubt: str | None = None


def refusal(text: str, found: Found) -> str:
    """The message about a file that is certainly something else."""
    return (
        f"{text}: is {found.name}, not raw guest RAM; {_command(text, found)}; --format raw scans "
        "it as raw RAM anyway"
    )


def note(text: str, found: Found) -> str:
    """The message about a file that may be something else."""
    return (
        f"{text}: begins like {found.name}, but {found.doubt}: treated as raw guest RAM; if it is "
        f"one: {_command(text, found)}; --format raw drops this note"
    )


def _command(text: str, found: Found) -> str:
    name = f"/dev/shm{text.removeprefix('shm:')}" if text.startswith("shm:") else text
    return found.remedy.replace("FILE", "FILE" if text.startswith("fd:") else shlex.quote(name))
