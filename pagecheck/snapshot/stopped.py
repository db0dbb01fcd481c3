"""A VM that is stopped while it is saved.

Danger: a VM that stays stopped; a snapshot that is believed although its VM ran on meanwhile.
Decision: whatever happens, the VM is continued before anything is made of an error; and what was
copied counts only where whoever stopped the VM says that its RAM did not change until the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pagecheck import clock
from pagecheck.errors import PagecheckError, SourceError, UsageError
from pagecheck.logs import Log

if TYPE_CHECKING:
    from pagecheck.model import Pause

log = Log(__name__)


class Pausable(Protocol):
    """What can be stopped and continued; `vmm.Vm` says what each of it is."""

    text: str

    def pause(self, max_seconds: float) -> None:
        """Stops it."""

    def resume(self) -> Pause:
        """Continues it."""

    def quit(self) -> Pause:
        """Ends its VMM."""

    def why_moved(self) -> str | None:
        """Why its RAM may have changed."""


class Stopped:
    """The VM, stopped while the block of code runs, or until `end`.

    Attributes:
        pause: what the pause was, once it is over.
    """

    def __init__(self, vm: Pausable, max_pause: float) -> None:
        """Nothing is stopped yet.

        Args:
            max_pause: seconds; then the VM runs, whatever happens here.
        """
        self.pause: Pause | None = None
        self._vm = vm
        self._max_pause = max_pause
        self._until = 0.0
        self._open = False

    @property
    def left_s(self) -> float:
        """Seconds that are left of the longest time; more than 0."""
        return max(self._until - clock.now_s(), 1e-9)

    def __enter__(self) -> Stopped:
        self._until = clock.now_s() + self._max_pause
        self._vm.pause(self._max_pause)
        self._open = True
        return self

    def end(self) -> None:
        """Ends the pause: the VM runs, unless it was stopped before.

        Raises:
            SourceError: its RAM may have changed until now.
            PagecheckError: the VM cannot be continued; its watchdog stays for that.
        """
        try:
            self.pause = pause = self._vm.resume()
        except PagecheckError:
            self._open = False
            raise
        self._open = False  # only now: a signal may have come before the VM was continued
        if not pause.stood_still:
            raise SourceError(f"{self._vm.text}: {self._why(pause)}; nothing was saved")

    def quit(self, saved: str) -> Pause:
        """Ends the pause by the end of the VM.

        Args:
            saved: where the VM was saved, completely.

        Raises:
            SourceError: its RAM may have changed until now.
            PagecheckError: it cannot be ended.
        """
        self._open = False
        try:
            self.pause = pause = self._vm.quit()
        except PagecheckError as error:
            raise type(error)(f"{error}; {saved} is complete") from error
        if not pause.stood_still:
            raise SourceError(
                f"{self._vm.text}: runs on, and was not ended, since {self._why(pause)}; {saved} "
                "is complete, but the VM's disks have changed since"
            )
        return pause

    def _why(self, pause: Pause) -> str:
        if moved := self._vm.why_moved():
            return moved
        if pause.expired:
            return self._too_long
        if not pause.stopped_by_us:
            return (
                "the VM was not running before, and is suspended (wake it first), or was continued "
                "or reset by somebody else meanwhile"
            )
        return "the VM was continued or reset by somebody else while it was saved"

    @property
    def _too_long(self) -> str:
        return (
            f"the VM was paused for {self._max_pause:g} s, the most that was allowed, and runs on; "
            "give --max-pause more seconds, or --live to copy most of its RAM before"
        )

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not self._open:
            return
        if error is None:
            self.end()
            return
        late = clock.now_s() >= self._until
        try:
            self.end()
        except UsageError:
            pass  # a signal came after it was continued
        except PagecheckError as trouble:
            late = late or (self.pause is not None and self.pause.expired)
            if not late:
                log.warning("%s", str(trouble))  # what came first is what everything ends with
        if late and isinstance(error, SourceError):  # that the time passed is why pages are missing
            raise SourceError(f"{self._vm.text}: {self._too_long}; nothing was saved") from error
