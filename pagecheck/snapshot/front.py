"""Staying in front of QEMUs: signals are passed on, and their end is waited for.

Facts: a signal that a terminal makes goes to every process in front, and says that the kernel sent
it; one that somebody sends goes to us alone. Decision: only the second kind is passed on.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Collection
from typing import Final

_PASSED: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1),
    signal.SIGUSR2,
)
_SI_KERNEL: Final = 0x80  # Source: asm-generic/siginfo.h


class InFront:
    """Holds signals from the moment it is entered, so that none is lost before `wait`."""

    def __enter__(self) -> InFront:
        wanted = {each for each in _PASSED if signal.getsignal(each) != signal.SIG_IGN}
        self._held = signal.pthread_sigmask(signal.SIG_BLOCK, wanted | {signal.SIGCHLD})
        self._wanted = wanted | {signal.SIGCHLD}
        return self

    def __exit__(self, *_error: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._held)

    def wait(self, processes: Collection[subprocess.Popen[bytes]]) -> None:
        """Waits until all have ended."""
        while left := [each for each in processes if each.poll() is None]:
            came = signal.sigwaitinfo(self._wanted)
            if came.si_signo != signal.SIGCHLD and came.si_code != _SI_KERNEL:
                for each in left:
                    each.send_signal(came.si_signo)


def exit_code(returncode: int) -> int:
    """The exit status that tells of a process's end, as a shell does."""
    return returncode if returncode >= 0 else 128 - returncode
