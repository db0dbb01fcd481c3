"""Writes the tables of docs/performance.md: `python -m tools.bench.page`, `--check` only checks;
`--page docs/scale.md` those of that page.

A table stands between `<!-- bench: RUN SUITE -->` and `<!-- end of bench -->`, where RUN is a JSON
file of `tools.bench` in docs/bench/; what ran it stands between `<!-- machine: RUN -->` and the
same end, what the models of `tools.bench.scale` and `tools.bench.survey_scale` make of it after
`<!-- scale: RUN -->`, `<!-- facts: RUN -->` and `<!-- survey-scale: RUN -->`.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from tools.bench import record, scale, survey_scale
from tools.bench.rows import HEADINGS, cells
from tools.generated import ROOT, write_or_check

PAGE: Final = ROOT / "docs" / "performance.md"
SCALE: Final = ROOT / "docs" / "scale.md"
RUNS: Final = ROOT / "docs" / "bench"
PART: Final = re.compile(
    r"(<!-- (?P<kind>bench|machine|scale|facts|survey-scale): (?P<run>[\w.-]+)"
    r"(?: (?P<suite>\w+))? -->\n)"
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


def _machine(run: record.Run, _suite: str) -> str:
    facts = [("command", run.command), *run.machine.items()]
    lines = [_line((name, f"`{value}`")) for name, value in facts if value]
    return "\n".join([_line(("of the run", "")), _line(("---", "---")), *lines])


def _scale(run: record.Run, _suite: str) -> str:
    headings, *rows = scale.table(scale.Constants.of(run), scale.MEMORY_GB_S)
    return "\n".join([_line(headings), _line(("---",) * len(headings)), *map(_line, rows)])


def _facts(run: record.Run, _suite: str) -> str:
    rows = survey_scale.facts(survey_scale.Constants.of(run))
    return "\n".join([_line(("measured", "")), _line(("---", "---")), *map(_line, rows)])


def _survey_scale(run: record.Run, _suite: str) -> str:
    headings, *rows = survey_scale.table(survey_scale.Constants.of(run))
    under = ("---:",) * (len(headings) - 1) + ("---",)
    return "\n".join([_line(headings), _line(under), *map(_line, rows)])


KINDS: Final = {
    "bench": _table,
    "machine": _machine,
    "scale": _scale,
    "facts": _facts,
    "survey-scale": _survey_scale,
}


def _part(match: re.Match[str]) -> str:
    run = record.read(RUNS / f"{match['run']}.json")
    return f"{match[1]}\n{KINDS[match['kind']](run, match['suite'])}\n\n{match[5]}"


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
