"""The page as HTML: complete without its script, which only replaces texts.

Danger: texts of others in our HTML. Decision: every text goes through `_text`, and there is no
other way into the page.
"""

from __future__ import annotations

import html
from typing import Any, Final

from pagecheck.picture.states import PAGES
from pagecheck.service.page.tables import Row, Shown, Table

RELOAD_S: Final = 5  # where no script runs

_HEAD: Final = f"""<!doctype html>
<html lang="en" data-run="{{run}}">
<head>
<meta charset="utf-8">
<title>pagecheck</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
<script src="page.js" defer></script>
<noscript><meta http-equiv="refresh" content="{RELOAD_S}"></noscript>
</head>
<body>
<header>
<h1>pagecheck</h1>
<p id="status" role="status">As of {{at}}.</p>
<button id="pause" type="button" aria-pressed="false" hidden>Pause updates</button>
</header>
<main>
"""


def page(shown: Shown) -> str:
    """The whole page."""
    head = _HEAD.replace("{run}", _text(shown.run)).replace("{at}", _text(shown.at))
    parts = [head, _facts(shown), _chart()]
    parts += [_section(each) for each in shown.tables]
    parts += ["</main>\n</body>\n</html>\n"]
    return "".join(parts)


def members(shown: Shown) -> dict[str, Any]:
    """The same for the script: texts, by the ids of their sections."""
    return {
        "run": shown.run,
        "at": shown.at,
        "checked": shown.checked,
        "facts": [value for _name, value in shown.facts],
        "tables": {each.key: [_members(row) for row in each.rows] for each in shown.tables},
    }


def _members(row: Row) -> dict[str, Any]:
    return {
        "key": row.key,
        "cells": list(row.cells),
        "mood": row.mood,
        "picture": None if row.picture is None else list(row.picture),
    }


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _facts(shown: Shown) -> str:
    items = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n" for name, value in shown.facts
    )
    return (
        '<section id="facts" aria-labelledby="facts-title">\n'
        f'<h2 id="facts-title">Service</h2>\n<dl>\n{items}</dl>\n</section>\n'
    )


def _chart() -> str:
    """What the script draws; nothing without it."""
    return (
        '<figure id="chart" hidden>\n<figcaption id="chart-text"></figcaption>\n'
        '<svg role="img" aria-labelledby="chart-text" viewBox="0 0 120 30" '
        'preserveAspectRatio="none"><polyline points=""/></svg>\n</figure>\n'
    )


def _section(table: Table) -> str:
    key, title = table.key, _text(table.title)
    heads = "".join(
        f'<th scope="col"{_numeric(column)}>{_text(column.lstrip("#"))}</th>'
        for column in table.columns
    )
    rows = "".join(_row(table, row) for row in table.rows)
    no_table, no_words = ("", " hidden") if table.rows else (" hidden", "")
    return (
        f'<section id="{key}" aria-labelledby="{key}-title">\n'
        f'<h2 id="{key}-title">{title}</h2>\n<p class="note">{_text(table.note)}</p>\n'
        f"{_legend() if key == 'scans' else ''}"
        f'<p class="empty"{no_words}>{_text(table.empty)}</p>\n'
        f'<div class="wide" role="region" aria-label="Table: {title}" tabindex="0"{no_table}>'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
        "</section>\n"
    )


def _numeric(column: str) -> str:
    return ' class="number"' if column.startswith("#") else ""


def _row(table: Table, row: Row) -> str:
    cells = []
    for index, (column, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
        element = 'th scope="row"' if index == 0 else "td"
        content = _text(cell)
        if column == "Picture" and row.picture is not None:
            light, dark, said = map(_text, row.picture)
            content = (
                f'<picture><source srcset="{dark}" media="(prefers-color-scheme: dark)">'
                f'<img src="{light}" alt="{said}" width="256" height="14"></picture>'
            )
        cells.append(f"<{element}{_numeric(column)}>{content}</{element[:2]}>")
    return f'<tr data-key="{_text(row.key)}" class="{row.mood}">{"".join(cells)}</tr>\n'


def _legend() -> str:
    """What the colours of the pictures mean."""
    items = "".join(
        '<li><svg aria-hidden="true" width="12" height="12">'
        f'<rect class="light" width="12" height="12" fill="{state.light[-1]}"/>'
        f'<rect class="dark" width="12" height="12" fill="{state.dark[-1]}"/>'
        f"</svg> {_text(state.words)}</li>\n"
        for state in PAGES
    )
    return f'<ul class="legend" aria-label="Colours of the pictures">\n{items}</ul>\n'
