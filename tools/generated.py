"""Pages of docs/ that tools write: one command line for all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


def write_or_check(
    module: str, description: str | None, page: Path, new: Callable[[str], str]
) -> int:
    """Writes a page, or checks that it is up to date: the whole command line of `module`.

    Args:
        module: what users run, for the message.
        page: where `--page` does not name another one.
        new: makes the page from its old text.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--check", action="store_true", help="only check; exit status 1: it is out of date"
    )
    parser.add_argument("--page", type=Path, default=page)
    options = parser.parse_args()
    old = options.page.read_text()
    text = new(old)
    if options.check and text != old:
        print(f"{options.page}: out of date; run python -m {module}", file=sys.stderr)
        return 1
    if not options.check:
        options.page.write_text(text)
    return 0
