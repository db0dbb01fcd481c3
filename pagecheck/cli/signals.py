"""Signals that end the command, turned into an exception in the main thread.

Danger: an exception that is raised inside a weakref callback or `__del__` (the import machinery has
such callbacks) is dropped by Python, with a traceback on stderr. So the signal is also remembered,
long work asks `raise_pending` now and then, and that traceback is not shown. Only the first signal
counts: the clean-up that follows is bounded and must not be disturbed.
"""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import sys

TYPE_CHECKING = False  # nothing heavy is imported before the handlers are installed
if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

_pending: int | None = None


class Terminated(BaseException):
    """A signal asked us to end.

    Attributes:
        exit_code: 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == _signal.SIGINT else "ended by a signal")
        self.exit_code = 128 + number


def install() -> None:
    """Takes over SIGINT, SIGTERM and SIGHUP, unless they are ignored (nohup stays nohup)."""
    for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _on_signal)
    sys.unraisablehook = _drop_ours


def _drop_ours(dropped: UnraisableHookArgs) -> None:
    if not isinstance(dropped.exc_value, Terminated):
        sys.__unraisablehook__(dropped)


def raise_pending() -> None:
    """Raises Terminated if a signal came whose exception was dropped."""
    if _pending is not None:
        raise Terminated(_pending)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    global _pending
    for each in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(each, _signal.SIG_IGN)
    _pending = number
    raise Terminated(number)
