"""Reads what the guest prints on its serial console and what QEMU says about itself.

Both arrive through QEMU's standard output, a pipe. Each line is offered to a waiter once, so
that two waits in a row for the same text need two such lines.
"""

import os
import select
import subprocess
import time

from tools.guest.errors import DeadlinePassed, GuestError

_TAIL_LINES = 12
_READ_BYTES = 1 << 16
_REAP_S = 5.0


class Console:
    """The lines that a QEMU process printed.

    Args:
        qemu: The process; its stdout is a pipe that nobody else reads.
    """

    def __init__(self, qemu: "subprocess.Popen[bytes]") -> None:
        assert qemu.stdout is not None
        self._qemu = qemu
        self._pipe_fd = qemu.stdout.fileno()
        self._lines: list[str] = []
        self._partial = b""
        self._next = 0

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

    def skip(self) -> None:
        """Marks all that was printed so far as considered."""
        while self._read(0.0, "nothing"):
            pass
        self._next = len(self._lines)

    @property
    def _name(self) -> str:
        return f"guest (QEMU {self._qemu.pid})"

    def _read(self, wait_s: float, awaited: str) -> bool:
        ready, _, _ = select.select([self._pipe_fd], [], [], wait_s)
        if not ready:
            return False
        chunk = os.read(self._pipe_fd, _READ_BYTES)
        if not chunk:
            status = self._qemu.wait(_REAP_S)
            raise GuestError(
                f"{self._name}: ended with status {status} before {awaited!r}; {self._tail()}"
            )
        *whole, self._partial = (self._partial + chunk).split(b"\n")
        self._lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
        return True

    def _tail(self) -> str:
        last = [*self._lines, self._partial.decode(errors="replace")][-_TAIL_LINES:]
        shown = "".join(f"\n  {line}" for line in last if line)
        return f"the console's last lines:{shown or ' none'}"
