"""Log records without `logging`, until there is one.

A scan that goes well has nothing to say to a program that did not ask, and `logging` would be a
tenth of its start. So a `Log` loads it with its first warning; what is merely of interest is
dropped unless something has loaded `logging` already, as every program that reads it has.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

_set_up: Callable[[], None] | None = None


def set_up_later(set_up: Callable[[], None]) -> None:
    """Has logging set up just before the first record, if there is one."""
    global _set_up
    _set_up = set_up


class Log:
    """`logging.getLogger(name)`, which is called when it is needed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def info(self, text: str, *values: object) -> None:
        """A line for those who want to know how it goes."""
        if "logging" in sys.modules:
            self._logger().info(text, *values, stacklevel=2)

    def warning(self, text: str, *values: object) -> None:
        """A line on what went wrong and was mended."""
        self._logger().warning(text, *values, stacklevel=2)

    def error(self, text: str, *values: object) -> None:
        """A line on what went wrong."""
        self._logger().error(text, *values, stacklevel=2)

    def log(self, level: int, text: str, *values: object) -> None:
        """A line of that level, a number of `logging`."""
        self._logger().log(level, text, *values, stacklevel=2)

    def _logger(self) -> logging.Logger:
        global _set_up
        import logging

        if _set_up is not None:
            _set_up()
            _set_up = None
        return logging.getLogger(self._name)
