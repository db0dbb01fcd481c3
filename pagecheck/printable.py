"""Text of others (names of processes and files, QMP, a service's words) as a terminal may get it.

Danger: whoever chose such a name could otherwise move the cursor, set a title, or hide a line.
"""

from __future__ import annotations

TYPE_CHECKING = False  # nothing heavy is imported before the signal handlers are installed
if TYPE_CHECKING:
    from typing import Final

CHARACTERS_MAX: Final = 4000


def printable(text: str, most: int = CHARACTERS_MAX) -> str:
    r"""The text on one line, without characters that a terminal obeys instead of showing them.

    Args:
        most: characters of the text that are shown; of a longer one the middle is left out.

    Returns:
        The text; in the place of each such character stands its escape, such as \x1b or \n.
    """
    if len(text) > most:
        text = f"{text[: most - most // 4]} ... {text[-(most // 4) :]}"  # the end holds the reason
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def printable_lines(text: str) -> str:
    """A text of ours with several lines, each of them made printable."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
