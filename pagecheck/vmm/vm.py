"""A running VM as a source of RAM: opened by process id or by QMP socket."""

from __future__ import annotations

import contextlib

from pagecheck.errors import UsageError
from pagecheck.vmm.pause import QemuMonitor
from pagecheck.vmm.process import open_process
from pagecheck.vmm.qemu import open_qemu
from pagecheck.vmm.ram import GuestRam, PauseResult


class Vm:
    """A running VM; made by `open_vm`, a context manager.

    Attributes:
        text: the source as the user wrote it.
        rams: its RAM blocks, open.
        can_pause: whether `pause` and `resume` work; True for `qmp:`.
    """

    def __init__(self, text: str, rams: list[GuestRam], monitor: QemuMonitor | None) -> None:
        self.text = text
        self.rams = rams
        self.can_pause = monitor is not None
        self._monitor = monitor

    def pause(self, max_seconds: float) -> None:
        """Stops the VM if it is running.

        Args:
            max_seconds: after this time it is continued, whatever happens here.

        Raises:
            UsageError: it cannot be paused from here, or is already.
            SourceError: QEMU does not stop it, or ended.
        """
        self._asked().pause(max_seconds)

    def resume(self) -> PauseResult:
        """Continues the VM if it was us who stopped it.

        Raises:
            UsageError: it was not paused.
            SourceError: QEMU does not continue it, or ended.
        """
        return self._asked().resume()

    def is_stopped(self) -> bool | None:
        """Whether its RAM stands still at this moment; None where that cannot be asked.

        Raises:
            SourceError: QEMU does not answer, or ended.
        """
        return None if self._monitor is None else self._monitor.is_stopped()

    def close(self) -> None:
        """Continues the VM if it is stopped by us, and closes every source that is still open."""
        with contextlib.ExitStack() as stack:
            for ram in self.rams:
                stack.callback(ram.source.close)
            if self._monitor is not None:
                self._monitor.close()

    def __enter__(self) -> Vm:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _asked(self) -> QemuMonitor:
        if self._monitor is None:
            raise UsageError(
                f"{self.text}: cannot be paused by its process id; give qmp:SOCKET, or pause it "
                "with the VMM's own tool"
            )
        return self._monitor


def is_vm_source(text: str) -> bool:
    """Whether it names a running VM: `pid:PID[:NAME]` or `qmp:SOCKET`."""
    return text.startswith(("pid:", "qmp:"))


def open_vm(text: str) -> Vm:
    """Opens the RAM of a running VM.

    Args:
        text: `pid:PID`, `pid:PID:NAME` or `qmp:SOCKET`.

    Raises:
        SourceError: there is no such VM, it may not be looked at, or its RAM is private.
        EngineError: the watchdog of a QMP connection cannot be started.
        UsageError: the text names no VM.
    """
    if text.startswith("pid:"):
        return Vm(text, open_process(text), None)
    if not text.startswith("qmp:"):
        raise UsageError(f"{text}: names no VM; write pid:PID or qmp:/path/to/socket")
    monitor = QemuMonitor(text.removeprefix("qmp:"))
    try:
        return Vm(text, open_qemu(text, monitor), monitor)
    except BaseException:
        monitor.close()
        raise
