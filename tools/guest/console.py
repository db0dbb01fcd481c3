"""Reads what the guest prints on its serial console and what QEMU says about itself.

Both arrive through QEMU's standard output, a pipe, or through a file that QEMU writes. Each line is
offered to a waiter once, so that two waits in a row for the same text need two such lines.
"""

import os
import select
import subprocess
import time
from collections.abc import Callable

from tools.guest.errors import DeadlinePassed, GuestError

_TAIL_LINES = 12
_READ_BYTES = 1 << 16
_REAP_S = 5.0
_FILE_LOOK_S = 0.02


class Console:
    """The lines that a QEMU process printed.

    Args:
        pid: The process.
        fd: Where its lines are read; the caller keeps it open.
        ended: How the process ended, in words, or None while it runs; asked where nothing more
            can be read.
    """

    def __init__(self, pid: int, fd: int, ended: Callable[[], str | None]) -> None:
        self._name = f"guest (QEMU {pid})"
        self._fd = fd
        self._ended = ended
        self._lines: list[str] = []
        self._partial = b""
        self._next = 0

    @classmethod
    def of_child(cls, qemu: "subprocess.Popen[bytes]") -> "Console":
        """The console of a child whose stdout is a pipe that nobody else reads."""
        assert qemu.stdout is not None
        return cls(qemu.pid, qemu.stdout.fileno(), lambda: f"status {qemu.wait(_REAP_S)}")

    @property
    def lines(self) -> tuple[str, ...]:
        """All whole lines read so far, without line ends."""
        return tuple(self._lines)

    def wait_line(self, text: str, deadline: float) -> str:
        """Waits for a line that holds a text, among the lines that no wait has considered yet.

        Args:
            text: What the line must contain.
            deadline: Until when to wait, in seconds of `time.monotonic`.

        Returns:
            The whole line.

        Raises:
            DeadlinePassed: No such line came in time.
            GuestError: QEMU ended first.
        """
        while True:
            while self._next < len(self._lines):
                self._next += 1
                if text in self._lines[self._next - 1]:
                    return self._lines[self._next - 1]
            if not self._read(max(0.0, deadline - time.monotonic()), text):
                raise DeadlinePassed(f"{self._name}: no {text!r} in time; {self._tail()}")

    def catch_up(self) -> None:
        """Reads what was printed so far, and leaves it to the next waiter."""
        while self._read(0.0, "nothing"):
            pass

    def skip(self) -> None:
        """Marks all that was printed so far as considered."""
        self.catch_up()
        self._next = len(self._lines)

    def _read(self, wait_s: float, awaited: str) -> bool:
        """Reads once; whether it is worth to look at the lines, or to read, again."""
        ready, _, _ = select.select([self._fd], [], [], wait_s)
        if not ready:
            return False
        chunk = os.read(self._fd, _READ_BYTES)
        if not chunk:
            how = self._ended()
            if how is not None:
                raise GuestError(
                    f"{self._name}: ended with {how} before {awaited!r}; {self._tail()}"
                )
            time.sleep(min(wait_s, _FILE_LOOK_S))  # a file is always ready, and has no end
            return wait_s > 0.0
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        self._lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
        return True

    def _tail(self) -> str:
        last = [*self._lines, self._partial.decode(errors="replace")][-_TAIL_LINES:]
        shown = "".join(f"\n  {line}" for line in last if line)
        return f"the console's last lines:{shown or ' none'}"
