"""Untrusted text (process and file names, QMP, a service's messages) made safe for a terminal.

Danger: an attacker who chose such a name could otherwise move the cursor, set a title, or hide a
line.
"""

from __future__ import annotations

TYPE_CHECKING = False  # nothing heavy is imported before the signal handlers are installed
if TYPE_CHECKING:
    from typing import Final

CHARACTERS_MAX: Final = 4000


def printable(text: str, most: int = CHARACTERS_MAX) -> str:
    r"""The text on one line, without characters that a terminal interprets instead of showing them.

    Args:
        most: characters shown at most; the middle of a longer text is left out.

    Returns:
        The text; each such character is replaced by its escape, such as \x1b or \n.
    """
    if len(text) > most:
        text = f"{text[: most - most // 4]} ... {text[-(most // 4) :]}"  # the end holds the reason
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_lines(text: str) -> str:
    """A text of several lines, each of them made printable."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
