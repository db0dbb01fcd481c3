"""Why each mapping of a process is guest RAM or not, for people and for programs, on stderr."""

from __future__ import annotations

import contextlib
import json
import sys

from pagecheck.cli.present import size_text
from pagecheck.cli.streams import say
from pagecheck.printable import printable_lines

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.vmm.find.explain import ExplainedMapping


def show(mappings: Sequence[ExplainedMapping], *, as_json: bool) -> None:
    """Prints a table, or one line of JSON; a failure to write changes nothing else.

    Args:
        mappings: as `pagecheck.explain` gave it.
    """
    if as_json:
        members = [{**each._asdict(), "size": each.size} for each in mappings]
        with contextlib.suppress(OSError):
            print(json.dumps({"mappings": members}), file=sys.stderr, flush=True)
        return
    for line in table(mappings).split("\n"):
        say(line)


def table(mappings: Sequence[ExplainedMapping]) -> str:
    """One row for each mapping, in order of address, the reason last."""
    rows = [("addresses", "size", "mode", "guest RAM", "what it is")]
    for each in mappings:
        what = f"{each.path}: {each.why}" if each.path else each.why
        place = f"{each.start:x}-{each.end:x}"
        rows.append((place, size_text(each.size), each.perms, each.verdict, what))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]))
    return printable_lines("\n".join(lines))
