"""Writes the tables of docs/shm-layout.md: `python -m tools.shm_layout`, `--check` only checks.

Offsets and sizes are those of the built extension; names, writers and meanings are read from the
headers' structures, where a comment of its own line names the writer of the words below it, and
one behind a word says what the word means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from pagecheck.native import _native
from tools.generated import ROOT, write_or_check

PAGE: Final = ROOT / "docs" / "shm-layout.md"
RING: Final = ROOT / "pagecheck" / "include" / "pagecheck_ring.h"
LAYOUT: Final = ROOT / "pagecheck" / "native" / "core" / "pc_layout.h"
SINK: Final = LAYOUT.with_name("pc_sink.h")

# Part: the header that defines it, and where its words are there.
PARTS: Final = {
    "header": (RING, r"struct pagecheck_ring_header \{(.*?)\n\};"),
    "slot": (RING, r"struct pagecheck_slot \{(.*?)\n\};"),
    "control": (LAYOUT, r"struct pc_control \{(.*?)\n\};"),
    "stats": (LAYOUT, r"#define PC_STATISTICS\(ONE, MANY\)(.*?)\n\n"),
    "failure": (LAYOUT, r"struct pc_failure \{(.*?)\n\};"),
    "sink": (SINK, r"struct pc_sink_state \{(.*?)\n\};"),
}
WRITERS: Final = {
    "Written once": "once",
    "Written by the submitter": "submitter",
    "Written by the supervisor": "supervisor",
    "Written by the worker": "worker",
    "Added to": "added to",
}
TOKEN: Final = re.compile(
    r"/\*(?P<comment>.*?)\*/"
    r"|(?:ONE|MANY)\((?P<statistic>\w+).*?\)"
    r"|(?:struct )?\w+ (?P<member>\w+)(?:\[.*?\])?;",
    re.DOTALL,
)
TABLE: Final = re.compile(r"(<!-- words: (\w+) -->\n).*?(\n<!-- end of words -->)", re.DOTALL)


class Word(NamedTuple):
    """One shared word, as its header defines it.

    Attributes:
        writer: the only process that ever writes it; `once`: its creator, before any other process
            has it; `added to`: any process that wakes the worker.
    """

    name: str
    writer: str
    meaning: str


def words(part: str) -> Iterator[Word]:
    """The words of a part, without those that are reserved.

    Raises:
        ValueError: the header does not say who writes a word, or what it means.
    """
    path, pattern = PARTS[part]
    found = re.search(pattern, path.read_text(), re.DOTALL)
    if found is None:
        raise ValueError(f"{path.name}: no {part}")
    writer = "worker" if part in ("stats", "failure") else ""
    body = found[1]
    tokens = list(TOKEN.finditer(body))
    for index, token in enumerate(tokens):
        name = token["statistic"] or token["member"]
        before = body[: token.start()].rpartition("\n")[2]
        if name is None and not before.strip():
            first = _text(token["comment"]).partition(",")[0]
            writer = next((w for text, w in WRITERS.items() if first.startswith(text)), writer)
        if name is None or name.startswith("reserved"):
            continue
        behind = tokens[index + 1] if index + 1 < len(tokens) else None
        gap = body[token.end() : behind.start()] if behind is not None else "\n"
        if behind is None or behind["comment"] is None or "\n" in gap or not writer:
            raise ValueError(f"{path.name}: {part}.{name}: no meaning, or no writer")
        yield Word(name, writer, _text(behind["comment"]))


def _text(comment: str) -> str:
    return " ".join(re.sub(r"\\\n|\n\s*\*", " ", comment).split())


def table(part: str) -> str:
    """A part's words as Markdown."""
    lines = ["| offset | bytes | word | written by | meaning |", "|---:|---:|---|---|---|"]
    places = _native.layout()[part]
    for word in words(part):
        offset, size = places[word.name]
        meaning = word.meaning.replace("|", r"\|")
        lines.append(f"| {offset} | {size} | `{word.name}` | {word.writer} | {meaning} |")
    return "\n".join(lines)


def page(text: str | None = None) -> str:
    """The page, by default docs/shm-layout.md, with up-to-date tables."""
    text = PAGE.read_text() if text is None else text
    return TABLE.sub(lambda found: found[1] + table(found[2]) + found[3], text)


if __name__ == "__main__":
    sys.exit(write_or_check("tools.shm_layout", __doc__, PAGE, page))
