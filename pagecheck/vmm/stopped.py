"""A VM that is stopped while something looks at it, and what became of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pagecheck.errors import PagecheckError, SourceError
from pagecheck.model import Pause

if TYPE_CHECKING:
    from pagecheck.vmm.ram import PauseResult
    from pagecheck.vmm.vm import Vm

log = logging.getLogger(__name__)


class Stopped:
    """The VM, stopped while the block of code runs.

    Attributes:
        pause: how it was stopped; None before the end, and where that failed.
        hint: why the answer is a hint only; None where the VM stood still.
    """

    def __init__(self, vm: Vm, max_seconds: float, *, leave: bool) -> None:
        """Nothing is done yet.

        Args:
            max_seconds: after this time it is continued, whatever happens.
            leave: it stays stopped, unless the block of code ends with an exception.
        """
        self.pause: Pause | None = None
        self.hint: str | None = None
        self._vm = vm
        self._max_seconds = max_seconds
        self._leave = leave

    def __enter__(self) -> Stopped:
        self._vm.pause(self._max_seconds)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        leave = self._leave and error is None
        try:
            result = self._vm.resume(leave_stopped=leave)
        except PagecheckError as trouble:
            if error is None:
                raise
            log.warning("%s", trouble)  # what came first is what everything ends with
            return
        self.pause = Pause(result.paused_ns / 1e9, *result[1:])
        if result.stood_still:
            return
        why = self._why(result)
        self.hint = f"{why}, and ran on before the end: the answer is a hint"
        if leave:
            raise SourceError(f"{self._vm.text}: {why}; it is not left stopped as it was asked for")

    def _why(self, result: PauseResult) -> str:
        if result.expired:
            return f"the VM was paused for {self._max_seconds:g} s, the most that was allowed"
        return "the VM was continued or reset by somebody else"
