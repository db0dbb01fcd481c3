"""Work that may take long: it can be ended at any moment, and a terminal shows how far it is."""

from __future__ import annotations

import sys

from pagecheck.cli.signals import raise_pending

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Result = TypeVar("Result")


def with_progress(
    work: Callable[[Callable[[int, int], None]], Result], doing: str, *, quiet: bool
) -> Result:
    """Does the work, and returns what it returns.

    Args:
        work: gets what it is to call now and then, with (bytes done, bytes in all).
        doing: what the bar is called, such as "scanning".
        quiet: no bar is shown.
    """
    if quiet or not sys.stderr.isatty():
        return work(_watch)
    from pagecheck.cli.present import ProgressBar

    with ProgressBar(doing=doing) as shown:

        def watch(done: int, total: int) -> None:
            _watch(done, total)
            shown(done, total)

        return work(watch)


def _watch(_done: int, _total: int) -> None:
    raise_pending()
