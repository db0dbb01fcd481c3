"""`survey --html FILE`: all rows on one page that needs no network, for people to sort and filter.

Danger: names and errors come from outside. They are shown escaped as in a terminal, travel as JSON
whose characters cannot end their element, and reach the page as text only; a policy in the page
forbids every script but its own, and every request.
"""

from __future__ import annotations

import string
import time
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from pagecheck._version import __version__
from pagecheck.picture.closed import policy, script_json
from pagecheck.picture.palette import STEP_WORDS
from pagecheck.picture.states import PAGES
from pagecheck.printable import printable
from pagecheck.survey.since import growth
from pagecheck.survey.strips import LOOKS
from pagecheck.survey.tables import save_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pagecheck.survey.run import Summary
    from pagecheck.survey.values import Row

FIELDS: Final = (
    *("path", "bytes", "allocated", "pages", "zero", "hole", "normal", "undecided"),
    *("save", "seconds", "checked", "error", "note", "picture", "grown"),
)
_NOT_IN_ROWS: Final = ("unchanged",)


def page(summary: Summary, before: Mapping[str, Row] | None = None) -> str:
    """The page of a survey.

    Args:
        before: rows of an earlier survey, by path; None: nothing is compared.
    """
    reused = f", {summary.reused:,} rows from an earlier survey" if summary.reused else ""
    how = f"with {summary.runner}, in {summary.seconds:,.1f} s{reused}"
    return _html(summary.rows, how, before=before)


def page_of_some(rows: Sequence[Row], runner: str, before: Mapping[str, Row] | None = None) -> str:
    """The page of a survey that was interrupted; its arguments are as of `page`."""
    notice = f"The survey was interrupted: these {len(rows):,} files are not all."
    return _html(rows, f"with {runner}", notice, before)


def _html(
    rows: Iterable[Row],
    how: str,
    notice: str = "",
    before: Mapping[str, Row] | None = None,
) -> str:
    style, script = _part("report.css") + _colours(), _part("report.js")
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    made = f"{made}, by pagecheck {__version__} {how}"
    return string.Template(_part("report.html")).substitute(
        policy=policy(style, script),
        version=escape(__version__),
        made=escape(printable(made)),
        notice=f'<p class="notice">{escape(printable(notice))}</p>' if notice else "",
        style=style,
        data=script_json(
            {
                "states": [[s.name, s.words] for s in PAGES if s.name not in _NOT_IN_ROWS],
                "looks": LOOKS,
                "steps": STEP_WORDS,
                "fields": FIELDS,
                "compared": before is not None,
                "rows": [[*_values(row), growth(row, before or {})] for row in rows],
            }
        ),
        script=script,
    )


def _part(name: str) -> str:
    return (resources.files("pagecheck.survey") / name).read_text("utf-8")


def _values(row: Row) -> list[Any]:
    return [
        printable(row.path),
        *(row.bytes, row.allocated, row.pages, row.zero, row.hole, row.normal, row.undecided),
        *(save_bytes(row), round(row.seconds, 6), row.bytes_checked),
        *(None if text is None else printable(text) for text in (row.error, row.note)),
        row.picture,
    ]


def _colours() -> str:
    """The rules for what is filled with the colour of a look, on light ground and on dark."""
    return (
        f"{_fills(light=True)}\n@media screen and (prefers-color-scheme: dark) {{\n"
        f"{_fills(light=False)}\n}}\n"
    )


def _fills(*, light: bool) -> str:
    colours = [colour for state in PAGES for colour in (state.light if light else state.dark)]
    return "\n".join(
        f".look-{name} {{ fill: {colour}; }}" for name, colour in zip(LOOKS, colours, strict=True)
    )
