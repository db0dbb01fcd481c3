"""A picture as one HTML file, which needs no network and no other file.

Danger: names of files and of blocks are anybody's. Decision: every text is escaped, in the markup
and in the JSON that the script reads; the script sets texts, never markup; and a
Content-Security-Policy allows this script and this style, by their digests, and nothing else.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pagecheck.picture import words
from pagecheck.picture.closed import policy, script_json
from pagecheck.picture.packing import packed
from pagecheck.picture.palette import FEW, SOME, STEP_WORDS
from pagecheck.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.picture.layout import LayoutName
    from pagecheck.picture.memory import Memory
    from pagecheck.picture.packing import Packed
    from pagecheck.picture.states import State

GENERATOR: Final = "pagecheck picture"  # the page's <meta name="generator">
SPANS_SHOWN: Final = 500
_FOLDER: Final = Path(__file__).parent
_SCRIPTS: Final = ("page_runs.js", "page_places.js", "page_words.js", "page.js")


def html(memory: Memory, *, layout: LayoutName = "hilbert", dark: bool | None = None) -> str:
    """The page.

    Args:
        layout: that it begins with.
        dark: whether its ground is; None: as the reader's system has it.
    """
    runs = packed(memory)
    style = (_FOLDER / "page.css").read_text("ascii").replace("/*STATES*/", _colours(memory.states))
    scripts = [(_FOLDER / name).read_text("ascii") for name in _SCRIPTS]
    script = '"use strict";\n' + "".join(scripts)
    parts = {
        "THEME": "" if dark is None else f' data-theme="{"dark" if dark else "light"}"',
        "POLICY": policy(style, script),
        "GENERATOR": GENERATOR,
        "TITLE": escape(words.title(memory)),
        "UNIT": escape(_unit(memory, runs)),
        "AXIS": escape(words.axis(memory)),
        "RULE": escape(words.rule(memory)),
        "COUNTS": "\n".join(_counts(memory)),
        "SPANS": "\n".join(_spans(memory)),
        "NOTES": "\n".join(f"<p>note: {escape(printable(note))}</p>" for note in memory.notes),
        "HILBERT": " selected" if layout == "hilbert" else "",
        "ROWS": " selected" if layout == "rows" else "",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": script_json(_about(memory, runs)),
    }
    # Part by part, so that no text is taken for a place of another.
    pieces = (_FOLDER / "page.html").read_text("ascii").split("@@")
    return "".join(parts[each] if number % 2 else each for number, each in enumerate(pieces))


def _unit(memory: Memory, runs: Packed) -> str:
    if runs.unit_pages == 1:
        return f"Every page of {words.size_text(memory.page_size)} is in this file."
    size = words.size_text(runs.unit_pages * memory.page_size)
    return (
        f"This file has the counts of each {size} ({runs.unit_pages:,} pages): with single pages "
        "it would be too large."
    )


def _about(memory: Memory, runs: Packed) -> dict[str, Any]:
    """What the script has to know."""
    spans = [
        {
            "block": span.block,
            "first": span.first,
            "pages": span.pages,
            # As a text: a number of the script has 53 bits.
            "address": None if span.address is None else f"{span.address:#x}",
        }
        for span in memory.spans
    ]
    return {
        "version": 1,
        "page_size": memory.page_size,
        "few": FEW,
        "some": SOME,
        "states": [
            {"name": s.name, "words": s.words, "tier": s.tier, "light": s.light, "dark": s.dark}
            for s in memory.states
        ],
        "counts": memory.counts,
        "blocks": [printable(each.name, 80) for each in memory.blocks],
        "spans": spans,
        "runs": runs.to_json(),
    }


def _colours(states: tuple[State, ...]) -> str:
    """Of each state and shade a class, by colours that are there for each theme."""

    def variables(theme: str) -> str:
        return "".join(
            f"--s{number}-{step}:{colour};"
            for number, state in enumerate(states)
            for step, colour in enumerate(getattr(state, theme))
        )

    classes = "".join(
        f".s{number}-{step}{{fill:var(--s{number}-{step})}}"
        for number in range(len(states))
        for step in range(len(STEP_WORDS))
    )
    return (
        f":root{{{variables('light')}}}\n"
        f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"])'
        f"{{{variables('dark')}}}}}\n"
        f':root[data-theme="dark"]{{{variables("dark")}}}\n{classes}'
    )


def _counts(memory: Memory) -> Iterator[str]:
    """The rows of the table that is the legend, too."""
    counts = memory.counts
    for number, (state, count) in enumerate(zip(memory.states, counts, strict=True)):
        swatch = "".join(
            f'<rect class="s{number}-{step}" x="{16 * step}" width="16" height="16"/>'
            for step in range(len(STEP_WORDS))
        )
        yield (
            f'<tr data-state="{state.name}"><th scope="row"><svg class="swatch" width="48" '
            f'height="16" aria-hidden="true">{swatch}</svg> {escape(state.words)}</th>'
            f"<td>{count:,}</td><td>{words.share(count, sum(counts))}</td>"
            f"<td>{words.size_text(count * memory.page_size)}</td></tr>"
        )


def _spans(memory: Memory) -> Iterator[str]:
    for number, span in enumerate(memory.spans[:SPANS_SHOWN]):
        text = escape(words.span_text(memory, span))
        yield f'<li><button type="button" data-span="{number}">{text}</button></li>'
    if (more := len(memory.spans) - SPANS_SHOWN) > 0:
        yield f"<li>and {more:,} more</li>"
