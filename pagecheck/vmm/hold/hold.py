"""The watchdog's hold on a VM: when it may stop it, when it must continue it.

Danger: a VM that is continued against its operator's will, or never. Decision: only a VM that was
running is stopped, and only one that its controller still finds as our stop left it is continued;
once another client was seen to continue it, it is no longer ours. Where it cannot be continued yet,
that is retried for as long as its VMM lives. Left unhandled: an operator's stop of a VM that we
hold leaves no trace, and ends with our hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from typing import Any, Final

from pagecheck import clock
from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.native import _native
from pagecheck.vmm.hold.controller import Carried, Controller, Lost, Silent, Untouched
from pagecheck.vmm.hold.listener import Gone
from pagecheck.vmm.kinds import QEMU

RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 5.0
PASSING_S: Final = 10.0  # then a status that passes is a reason to come back later

_LATER: Final = "; the VM is stopped, and continued as soon as that works"


class Hold:
    """What we did to the VM, and whether its RAM has been unchanged since.

    Attributes:
        is_ours: whether the VM is stopped by us, or may be, and is to be continued.
    """

    def __init__(self, vmm: Controller, report: Callable[[str], None]) -> None:
        """The VM is not ours yet.

        Args:
            vmm: whose VM it is.
            report: gets a line where the VM cannot be continued at once.
        """
        self._vmm = vmm
        self._report = report
        self._one = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None
        self.is_ours = False
        self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._expiring is not None:  # it waits for us to end, and is of what we forget
            self._expiring.cancel()
            self._expiring = None
        self._asked = False
        self.is_ours = False
        self._stopped_by_us = False
        self._moved = False
        self._expired = False
        self._why = ""  # RAM may have changed, where that is not evident
        self._since_ns = 0
        self._held_ns = 0

    async def pause(self, max_ns: int) -> dict[str, Any]:
        """Stops the VM if it runs, for at most max_ns.

        Raises:
            UsageError: it was asked for before and not ended.
            SourceError: a migration is going on.
            PeerError: the VMM does not stop it.
        """
        async with self._one:
            if self._asked:
                raise UsageError(f"{self._vmm.name}: is paused already; resume it first")
            await self._continue()  # of a pause that failed
            await self._vmm.prepare()
            status = await self._vmm.status()
            self._read_events()
            self._forget()
            self._asked = True
            try:
                if self._vmm.runs(status):
                    await self._stop(max_ns)
                    status = await self._vmm.status()
                self._read_events()
                if self._vmm.is_still(status):
                    await self._vmm.mark()
            except Exception as error:
                self._asked = False  # no pause; where this does not help, the timer or the end does
                if not isinstance(error, Silent):
                    with contextlib.suppress(SourceError, PeerError):
                        await self._continue()
                self._vmm.require_here()
                raise
            self._moved = self._moved or not self._vmm.is_still(status)
            return {"status": status, "stopped_by_us": self._stopped_by_us}

    async def _stop(self, max_ns: int) -> None:
        # Ours from before the command is sent: one that is not answered may yet be carried out.
        self.is_ours = self._stopped_by_us = True
        self._since_ns = clock.now_ns()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max_ns / 1e9, self._time_is_up)
        # What continued it before our stop does not end our hold; where it came after it, the VM
        # runs, and that does.
        try:
            self._moved = await self._vmm.stop()
        except Untouched:
            self._end_hold()
            raise

    async def resume(self, *, leave: bool = False, quit: bool = False) -> dict[str, Any]:
        """Ends the pause: continues the VM if it is ours.

        Args:
            leave: leave it stopped, if its RAM was unchanged until now.
            quit: in that case QEMU ends; the VM is held until it has answered.

        Returns:
            The fields of `PauseResult`.

        Raises:
            UsageError: it was not paused.
            PeerError: the VMM does not answer or does not continue it: it is ours still; or QEMU
                does not end, and the VM runs on.
            Carried: a migration took it away.
        """
        async with self._one:
            if not self._asked:
                raise UsageError(f"{self._vmm.name}: is not paused")
            try:
                still = await self._was_stopped()
                if quit and still:
                    await self._quit()
                left = (leave or quit) and still and self.is_ours
                if left:
                    self._end_hold()
                await self._continue()
            except Gone:
                self._forget()
                raise
            result = {
                "paused_ns": self._held_ns,
                "stood_still": still,
                "expired": self._expired,
                "stopped_by_us": self._stopped_by_us,
                "left_stopped": left,
                "why": "" if still else self._why,
            }
            try:
                self._vmm.require_here()
            finally:
                self._forget()
            return result

    async def _quit(self) -> None:
        try:
            await self._vmm.execute("quit")
        except PeerError as error:
            try:
                if isinstance(error, Lost):
                    await self._vmm.connect()
                await self._continue()
            except Gone:
                return  # it ended before its answer was sent
            self._forget()
            raise

    async def _was_stopped(self) -> bool:
        """Whether RAM was unchanged until now."""
        self._why = self._vmm.doubt() or ""
        try:
            status = await self._vmm.status()
        except Lost:
            return False  # what happened without a connection is not known
        self._read_events()
        moved = self._moved or self._expired or not self._vmm.is_still(status)
        if moved:
            self._why = ""  # the status tells it
        return not moved and not self._why

    async def ask(self) -> dict[str, Any]:
        """The VM's status, and whether guest RAM is unchanged in it."""
        status = await self._vmm.status()
        runs, still = self._vmm.runs(status), self._vmm.is_still(status)
        return {"status": status, "runs": runs, "still": still}

    async def punch(
        self, fd: int, unit: int, kernel: str, ranges: list[list[int]]
    ) -> dict[str, int]:
        """Makes holes of the zero units of a paused VM's RAM. It blocks this process meanwhile,
        which is the one that continues the VM: that comes before a look at a page or after its
        hole, never between, even where the process itself is stopped.

        Args:
            fd: of the RAM, open for reading and writing.
            unit, kernel: as of `punch_zero`.
            ranges: first byte and end of each; what takes some milliseconds in all.

        Returns:
            `still`: whether the VM was still when this began; else nothing was done. `zero_bytes`
            that are holes now. `errno` of what failed, or 0.
        """
        async with self._one:
            still = await self._is_still_ours()
            answer = {"still": int(still), "zero_bytes": 0, "errno": 0}
            for start, end in ranges if still else ():
                try:
                    done = _native.punch_zero(fd, start, end, unit, kernel, False, False, False)
                except OSError as error:
                    answer["errno"] = error.errno or errno.EIO
                    break
                answer["zero_bytes"] += done[1]
            return answer

    async def _is_still_ours(self) -> bool:
        """Whether the VM is paused, as asked for, and its RAM unchanged until now. Where threads
        that did not run prove that, the VMM is not asked: its answer would end the proof."""
        if self._vmm.doubt() is not None:
            return False
        still = True
        if self._vmm.kind is QEMU:
            still = self._vmm.is_still(await self._vmm.status())
        self._read_events()
        return still and self._asked and not self._moved and not self._expired

    def adopt(self) -> None:
        """Takes over a VM that a dead watchdog had stopped."""
        self.is_ours = self._stopped_by_us = True
        self._since_ns = clock.now_ns()

    async def force_resume(self) -> dict[str, Any]:
        """Continues a VM that was adopted."""
        async with self._one:
            await self._continue()
            self._vmm.require_here()
            return {}

    async def end(self, within_s: float) -> dict[str, Any]:
        """As `resume_if_ours`, for a short time.

        Returns:
            `why`: why that failed, or what became of the VM where the user must know.
        """
        said: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._free(said.append, "")
        if self.is_ours and not said:
            name, vmm = self._vmm.name, self._vmm.kind.vmm
            said.append(f"{name}: {vmm} does not answer, or is in the middle of something")
        return {"why": said[-1] if said else ""}

    async def resume_if_ours(self) -> None:
        """Continues the VM if it is ours, at the end of everything; returns when it runs, is
        another client's, or its VMM is gone."""
        await self._free(self._report, _LATER)

    def _time_is_up(self) -> None:
        self._expiring = asyncio.get_running_loop().create_task(self._expire())

    async def _expire(self) -> None:
        await self._free(self._report, _LATER, expired=True)

    async def _free(
        self, report: Callable[[str], None], more: str, *, expired: bool = False
    ) -> None:
        """Tries to continue the VM until that works or its VMM is gone.

        Args:
            report: gets the first reason why that fails, with `more`, and how it ended.
        """
        wait_s, was, reported = RETRY_S, self.is_ours, False
        async with self._one:
            while self.is_ours:
                self._read_events()
                self._expired = self._expired or (expired and self.is_ours)
                try:
                    await self._continue()
                except Gone as error:
                    self._end_hold()
                    report(str(error))
                    return
                except Exception as error:  # whatever it is, no other process continues the VM
                    if not reported:
                        report(f"{error}{more}")
                    reported = True
                    await self._vmm.rest(wait_s)
                    wait_s = min(2 * wait_s, RETRY_MAX_S)
            try:
                self._vmm.require_here()
            except Carried as error:
                if was:
                    report(str(error))
                return
            if reported:
                report(f"{self._vmm.name}: the VM runs on after {self._held_ns / 1e9:.1f} s")

    async def _continue(self) -> None:
        """Continues the VM, unless it is another client's by now.

        Raises:
            Gone: the VMM ended.
            PeerError, SourceError: it did not work this time.
        """
        wait_s, until = RETRY_S, clock.now_s() + PASSING_S
        while self.is_ours:
            try:
                status = await self._vmm.status()
            except Lost:
                self._moved = True  # what happened without a connection is not known
                await self._vmm.connect()
                continue
            self._read_events()
            if not self.is_ours:
                return
            match await self._vmm.step(status):
                case "cont":
                    await self._cont()
                case "wait":
                    if clock.now_s() > until:
                        name, vmm = self._vmm.name, self._vmm.kind.vmm
                        raise SourceError(f"{name}: {vmm}'s status is still {status}")
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, RETRY_MAX_S)
                case "leave":
                    self._end_hold()

    async def _cont(self) -> None:
        try:
            await self._vmm.cont()
        finally:
            self._read_events()  # our own RESUME, which ends the hold
        if self.is_ours and not self._vmm.runs(await self._vmm.status()):
            raise PeerError(f"{self._vmm.name}: does not run after it was continued")
        self._end_hold()

    def _read_events(self) -> None:
        """Evaluates what was reported until now."""
        seen = self._vmm.seen()
        if seen.moved and self._asked:
            self._moved = True
        if seen.resumed:
            self._end_hold()

    def _end_hold(self) -> None:
        if self.is_ours:
            self.is_ours = False
            self._held_ns = clock.now_ns() - self._since_ns
