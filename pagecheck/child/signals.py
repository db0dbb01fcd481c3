"""Signals that end the program, held back while an exception would do harm."""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

_ENDING: Final = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)


class signals_held:  # noqa: N801  # it is used as a function
    """Signals that end the program come before or after: an exception between the start of a
    process and the note of it would leave the process to nobody, and one in the middle of the start
    of a thread is lost, since its lock raises another. A process inherits this and calls
    `release_signals`; a thread keeps it: the main thread has the handlers."""

    def __enter__(self) -> None:
        self._held = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING)

    def __exit__(self, *_exception: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._held)


def release_signals() -> None:
    """Lets signals in that were held while this process was started."""
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
