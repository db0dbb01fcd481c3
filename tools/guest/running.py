"""A guest that runs, whoever started its QEMU: what it says on its console about its memory.

The guest counts: after each check of all that it wrote it prints "CHECK n OK", or "CHECK n BAD".
The count is a variable of its only program, so it lives in guest RAM and nowhere else. A guest
that was saved and restored goes on with the next number; one that was booted anew says "GUEST
FILLED" and begins at 1.
"""

import os
import re
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.guest.console import Console
from tools.guest.errors import GuestError

FILLED = "GUEST FILLED"
_CHECK = re.compile(r"CHECK (\d+) (OK|BAD)")


class RunningGuest:
    """The console of a guest that runs.

    A test that restores a guest compares the two like this::

        guest.pause()
        last = guest.count()
        ...  # save it, kill it, start another QEMU with -serial file:LOG
        with RunningGuest.on_file(qemu.pid, log) as restored:
            restored.goes_on(last)
    """

    def __init__(self, pid: int, console: Console) -> None:
        self._pid = pid
        self._console = console

    @classmethod
    @contextmanager
    def on_file(cls, pid: int, log: Path) -> Iterator["RunningGuest"]:
        """Follows a QEMU that somebody else started with `-serial file:LOG`.

        Args:
            pid: QEMU's process id; it need not be a child.
            log: The file; QEMU has made it before it speaks QMP.

        Yields:
            The guest, with all that the file holds. QEMU is left alone at the end.
        """
        pidfd = os.pidfd_open(pid)
        try:
            with log.open("rb", buffering=0) as file:
                yield cls(pid, Console(pid, file.fileno(), lambda: _ended(pidfd)))
        finally:
            os.close(pidfd)

    @classmethod
    @contextmanager
    def on_pipe(cls, pid: int, fd: int) -> Iterator["RunningGuest"]:
        """Follows a QEMU with `-serial stdio` that somebody else started.

        Args:
            pid: The process whose end is the end of the guest; it need not be a child.
            fd: The reading end of what is its stdout.

        Yields:
            The guest, with what is said from now on.
        """
        yield cls(pid, Console(pid, fd, lambda: "its console closed"))

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._pid

    @property
    def console_lines(self) -> tuple[str, ...]:
        """The console's lines read so far."""
        return self._console.lines

    def wait_line(self, text: str, deadline_s: float) -> str:
        """Waits for a console line that holds a text; every line is considered only once.

        Args:
            text: What the line must contain.
            deadline_s: How long to wait, in seconds from now.

        Returns:
            The whole line.

        Raises:
            DeadlinePassed: No such line came in time.
            GuestError: QEMU ended first.
        """
        return self._console.wait_line(text, time.monotonic() + deadline_s)

    def wait_check(self, deadline_s: float = 60.0) -> str:
        """Waits for a check of the guest's memory that began after this call.

        Args:
            deadline_s: How long to wait, in seconds from now.

        Returns:
            The guest's line: "CHECK n OK", or "CHECK n BAD" if its memory changed.

        Raises:
            DeadlinePassed: No such check ended in time.
            GuestError: QEMU ended first.
        """
        deadline = time.monotonic() + deadline_s
        self._console.skip()
        self._console.wait_line("CHECK ", deadline)  # may have begun before
        return self._console.wait_line("CHECK ", deadline)

    def count(self) -> int:
        """The number of the last check that it printed; 0 before the first.

        Raises:
            GuestError: A check until now was BAD, or QEMU ended.
        """
        self._console.catch_up()
        return max(_counted(self.console_lines), default=0)

    def goes_on(self, last: int, deadline_s: float = 60.0) -> int:
        """Waits until a restored guest has gone on where the saved one was.

        Args:
            last: `count` of the guest that was saved, taken while it was paused. Where it was
                taken before the pause, the guest may have counted on until then.
            deadline_s: How long to wait, in seconds from now.

        Returns:
            The number of a check that the guest began after it was restored.

        Raises:
            GuestError: The guest was booted instead, counts from elsewhere, or a check was BAD.
            DeadlinePassed: It did not count in time.
        """
        deadline = time.monotonic() + deadline_s
        while len(numbers := self._restored_counts(last)) < 2:  # the first may have begun before
            self._console.wait_line("CHECK ", deadline)
        return numbers[-1]

    def _restored_counts(self, last: int) -> list[int]:
        self._console.catch_up()
        if any(FILLED in line for line in self.console_lines):
            raise GuestError(f"guest (QEMU {self.pid}): was booted, and did not go on")
        numbers = _counted(self.console_lines)
        if numbers and numbers != list(range(max(numbers[0], last + 1), numbers[0] + len(numbers))):
            raise GuestError(f"guest (QEMU {self.pid}): counts {numbers} after {last}")
        return numbers


def _counted(lines: tuple[str, ...]) -> list[int]:
    """The checks' numbers; a line that began before the guest was saved counts for nothing."""
    checks = [match for match in map(_CHECK.fullmatch, lines) if match]
    if any(match[2] == "BAD" for match in checks):
        raise GuestError("guest: its memory or its disk changed: " + "; ".join(lines[-12:]))
    return [int(match[1]) for match in checks]


def _ended(pidfd: int) -> str | None:
    ready, _, _ = select.select([pidfd], [], [], 0.0)
    return "a status that only its parent knows" if ready else None
