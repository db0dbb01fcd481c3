"""Signals that end the program, held back while an exception would do harm."""

from __future__ import annotations

import contextlib
import signal

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

_ENDING: Final = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Signals that end the program come before or after: an exception between the start of a
    process and the note of it would leave the process to nobody. The process inherits this and
    calls `release_signals`."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def release_signals() -> None:
    """Lets signals in that were held while this process was started."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
