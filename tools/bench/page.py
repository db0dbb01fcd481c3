"""Writes the tables of docs/performance.md: `python -m tools.bench.page`, `--check` only checks.

A table stands between `<!-- bench: RUN SUITE -->` and `<!-- end of bench -->`, where RUN is a JSON
file of `tools.bench` beside the page in docs/bench/; what ran it stands between
`<!-- machine: RUN -->` and the same end.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from tools.bench import record
from tools.bench.rows import HEADINGS, cells
from tools.generated import ROOT, write_or_check

PAGE: Final = ROOT / "docs" / "performance.md"
RUNS: Final = ROOT / "docs" / "bench"
PART: Final = re.compile(
    r"(<!-- (?P<kind>bench|machine): (?P<run>[\w.-]+)(?: (?P<suite>\w+))? -->\n)"
    r".*?"
    r"(<!-- end of bench -->)",
    re.DOTALL,
)


def _line(texts: tuple[str, ...]) -> str:
    return "| " + " | ".join(text.replace("|", r"\|") for text in texts) + " |"


def _table(run: record.Run, suite: str) -> str:
    headings = (*HEADINGS[:-1], "verdict", "limited by")
    rows = run.suites.get(suite)
    if rows is None:
        raise SystemExit(f"{PAGE}: no suite {suite} in that run: it has {', '.join(run.suites)}")
    lines = [_line(headings), _line(("---",) * 3 + ("--:",) * (len(headings) - 5) + ("---",) * 2)]
    lines += [_line((*cells(row), row.limited_by)) for row in rows]
    return "\n".join(lines)


def _machine(run: record.Run) -> str:
    return "\n".join(
        [_line(("of the run", "")), _line(("---", "---"))]
        + [
            _line((name, f"`{value}`"))
            for name, value in (("command", run.command), *run.machine.items())
            if value
        ]
    )


def _part(match: re.Match[str]) -> str:
    run = record.read(RUNS / f"{match['run']}.json")
    text = _machine(run) if match["kind"] == "machine" else _table(run, match["suite"])
    return f"{match[1]}\n{text}\n\n{match[5]}"


def page(old: str) -> str:
    """The page with its tables made anew.

    Args:
        old: its text.

    Raises:
        OSError: a run that it names is missing.
        ValueError: a file is not a run.
    """
    return PART.sub(_part, old)


if __name__ == "__main__":
    sys.exit(write_or_check("tools.bench.page", __doc__, PAGE, page))
