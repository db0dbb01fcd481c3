"""A signal that comes right before a wait: the system call does not end, and Python learns of it
only after the call."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

SOON_S = 0.3
BOUND_S = 10.0  # far less than the waits that are tried, far more than a busy machine takes


class Came(BaseException):
    """The signal."""


@contextlib.contextmanager
def unnoticed_signal() -> Iterator[None]:
    """Soon a signal comes of which the main thread's system call is not told, since another thread
    takes it; the block of code must end by `Came`, long before its own wait ends."""

    def on_signal(*_: object) -> None:
        raise Came

    def take() -> None:
        time.sleep(SOON_S)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    taking = threading.Thread(target=take)
    before = signal.signal(signal.SIGUSR1, on_signal)
    begun = time.monotonic()
    taking.start()
    try:
        yield
    except Came:
        assert time.monotonic() - begun < BOUND_S
    else:
        raise AssertionError("the wait ended without the signal")
    finally:
        taking.join()
        signal.signal(signal.SIGUSR1, before)
