"""The watchdog's hold on the VM: when it may stop it, when it must continue it.

Facts (QEMU, softmmu/runstate.c, qapi/run-state.json): `stop` silently does nothing to a VM that is
not running; from "paused" a VM can go to running, shutdown, prelaunch (a reset),
finish-migrate, postmigrate and colo only. A migration that completes leaves "postmigrate", and one
that fails at its end does so too (7.2); `cont` after the first would run the guest a second time.
Danger: a VM that is continued against its operator's will, or never. Decision: only a VM that was
running and not in migration is stopped, and only one that is still as `stop`, a later reset or a
failed migration left it is continued; once another client's RESUME was seen it is no longer ours.
Where it cannot be continued yet, that is retried for as long as QEMU lives. Left unhandled: an
operator's `stop` of a VM that we hold leaves no trace, and ends with our hold.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Literal

from pagecheck import clock
from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.listener import Gone
from pagecheck.vmm.monitor import Lost, Monitor, Silent

RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 5.0
PASSING_S: Final = 10.0  # then a status that passes is a reason to come back later

# Statuses in which nothing writes guest RAM. Left out: inmigrate, restore-vm and colo (a stream
# or a checkpoint is loaded into it), postmigrate (with x-ignore-shared the destination runs on the
# same file), suspended (a wake-up makes it run without `cont`), preconfig (there is no RAM yet).
# prelaunch is in: the reset that loads the firmware is over before the monitor answers.
STOPPED: Final = frozenset(
    {
        "paused",
        "prelaunch",
        "debug",
        "internal-error",
        "io-error",
        "finish-migrate",
        "save-vm",
        "shutdown",
        "watchdog",
        "guest-panicked",
    }
)
PASSING: Final = frozenset({"finish-migrate", "save-vm", "restore-vm", "colo"})

# Whatever else query-migrate says, one is going on. It takes the run state along to its destination
# when it ends: stopped then, the guest is stopped there, where nobody continues it.
# Source: global_state_store() in migration/global_state.c.
NO_MIGRATION: Final = frozenset({"none", "completed", "failed", "cancelled"})
FAILED: Final = frozenset({"failed", "cancelled"})


_LATER: Final = "; the VM is stopped, and continued as soon as that works"


class Carried(SourceError):
    """A migration took the VM away while we held it."""


class Hold:
    """What we did to the VM, and whether its RAM has been unchanged since.

    Attributes:
        is_ours: whether the VM is stopped by us, or may be, and is to be continued.
    """

    def __init__(self, monitor: Monitor, report: Callable[[str], None]) -> None:
        """The VM is not ours yet.

        Args:
            report: gets a line where the VM cannot be continued at once.
        """
        self._monitor = monitor
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
        self._asked = False
        self.is_ours = False
        self._stopped_by_us = False
        self._moved = False
        self._expired = False
        self._carried = False
        self._before: Answer | None = None  # what query-migrate said before
        self._since_ns = 0
        self._held_ns = 0

    async def pause(self, max_ns: int) -> dict[str, Any]:
        """Stops the VM if it runs, for at most max_ns.

        Raises:
            UsageError: it was asked for before and not ended.
            SourceError: a migration is going on.
            PeerError: QEMU does not stop it.
        """
        async with self._one:
            if self._asked:
                raise UsageError(f"{self._monitor.name}: is paused already; resume it first")
            await self._continue()  # of a pause that failed
            before = await self._require_no_migration()
            status = await self._status()
            self._read_events()
            self._forget()
            self._asked, self._before = True, before
            try:
                if status == "running":
                    await self._stop(max_ns)
                    status = await self._status()
                self._read_events()
            except Exception as error:
                self._asked = False  # no pause; where this does not help, the timer or the end does
                if not isinstance(error, Silent):
                    with contextlib.suppress(SourceError, PeerError):
                        await self._continue()
                self._require_here()
                raise
            self._moved = self._moved or status not in STOPPED
            return {"status": status, "stopped_by_us": self._stopped_by_us}

    async def _require_no_migration(self) -> Answer:
        answer = await self._monitor.ask("query-migrate")
        status = answer.optional("status")
        if status is not None and status.text() not in NO_MIGRATION:
            raise SourceError(
                f"{self._monitor.name}: is not paused during its migration ({status.text()[:40]}), "
                "which would leave the guest stopped at the destination; scan it without pausing"
            )
        return answer

    async def _stop(self, max_ns: int) -> None:
        # Ours from before the command is sent: one that is not answered may yet be carried out.
        self.is_ours = self._stopped_by_us = True
        self._since_ns = clock.now_ns()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max_ns / 1e9, self._time_is_up)
        await self._monitor.execute("stop")
        # A RESUME from before our STOP does not end our hold; where it came after it, the status
        # is running, and that does.
        self._moved = "RESUME" in self._monitor.events()
        await self._require_no_migration()  # one may have begun right before it

    async def resume(self, *, leave: bool) -> dict[str, Any]:
        """Ends the pause: continues the VM if it is ours.

        Args:
            leave: leave it stopped, if its RAM was unchanged until now.

        Returns:
            The fields of `PauseResult`.

        Raises:
            UsageError: it was not paused.
            PeerError: QEMU does not answer or does not continue it; it is ours still.
            Carried: a migration took it away.
        """
        async with self._one:
            if not self._asked:
                raise UsageError(f"{self._monitor.name}: is not paused")
            try:
                still = await self._was_stopped()
                left = leave and still and self.is_ours
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
            }
            try:
                self._require_here()
            finally:
                self._forget()
            return result

    async def _was_stopped(self) -> bool:
        """Whether RAM was unchanged until now."""
        try:
            status = await self._status()
        except Lost:
            return False  # what happened without a connection is not known
        self._read_events()
        return status in STOPPED and not self._moved and not self._expired

    def _taken(self) -> Carried:
        return Carried(
            f"{self._monitor.name}: a migration took the VM away while it was stopped for the "
            "scan, and it is stopped at its destination: run cont there"
        )

    def _require_here(self) -> None:
        if self._carried:
            raise self._taken()

    async def ask(self) -> dict[str, Any]:
        """The VM's status, and whether guest RAM is unchanged in it."""
        status = await self._status()
        return {"status": status, "still": status in STOPPED}

    def adopt(self) -> None:
        """Takes over a VM that a dead watchdog had stopped."""
        self.is_ours = self._stopped_by_us = True
        self._since_ns = clock.now_ns()

    async def force_resume(self) -> dict[str, Any]:
        """Continues a VM that was adopted."""
        async with self._one:
            await self._continue()
            self._require_here()
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
            name = self._monitor.name
            said.append(f"{name}: QEMU does not answer, or is in the middle of something")
        return {"why": said[-1] if said else ""}

    async def resume_if_ours(self) -> None:
        """Continues the VM if it is ours, at the end of everything; returns when it runs, is
        another client's, or QEMU is gone."""
        await self._free(self._report, _LATER)

    def _time_is_up(self) -> None:
        self._expiring = asyncio.get_running_loop().create_task(self._expire())

    async def _expire(self) -> None:
        await self._free(self._report, _LATER, expired=True)

    async def _free(
        self, report: Callable[[str], None], more: str, *, expired: bool = False
    ) -> None:
        """Tries to continue the VM until that works or QEMU is gone.

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
                    await self._monitor.rest(wait_s)
                    wait_s = min(2 * wait_s, RETRY_MAX_S)
            if was and self._carried:
                report(str(self._taken()))
            elif reported:
                report(f"{self._monitor.name}: the VM runs on after {self._held_ns / 1e9:.1f} s")

    async def _continue(self) -> None:
        """Continues the VM, unless it is another client's by now.

        Raises:
            Gone: QEMU ended.
            PeerError, SourceError: it did not work this time.
        """
        wait_s, until = RETRY_S, clock.now_s() + PASSING_S
        while self.is_ours:
            try:
                status = await self._status()
            except Lost:
                self._moved = True  # what happened without a connection is not known
                await self._monitor.connect()
                continue
            self._read_events()
            if not self.is_ours:
                return
            match await self._next(status):
                case "cont":
                    await self._cont()
                case "wait":
                    if clock.now_s() > until:
                        raise SourceError(f"{self._monitor.name}: QEMU's status is still {status}")
                    await asyncio.sleep(wait_s)
                    wait_s = min(2 * wait_s, RETRY_MAX_S)
                case "leave":
                    self._end_hold()

    async def _next(self, status: str) -> Literal["cont", "wait", "leave"]:
        """What is to be done about a VM of ours that is in this status."""
        if status == "paused":
            return "cont"
        if status in ("prelaunch", "postmigrate", "finish-migrate"):
            return await self._after_migration(status)
        return "wait" if status in PASSING else "leave"  # running, or where `stop` does not lead

    async def _after_migration(self, status: str) -> Literal["cont", "wait", "leave"]:
        """The same, where a migration may have begun since we stopped it."""
        answer = await self._monitor.ask("query-migrate")
        known = answer.optional("status")
        migration = "none" if known is None else known.text()
        if status == "finish-migrate":  # in postcopy the destination has it already
            self._carried = migration.startswith("postcopy")
            return "leave" if self._carried else "wait"
        if status == "prelaunch":  # a reset, by itself or after a migration
            new = self._before is not None and not answer.is_same(self._before)
            self._carried = migration == "completed" and new
            return "leave" if self._carried else "cont"
        self._carried = migration == "completed"
        if self._carried:
            return "leave"
        return "cont" if migration in FAILED else "wait"

    async def _cont(self) -> None:
        try:
            await self._monitor.execute("cont")
        finally:
            self._read_events()  # our own RESUME, which ends the hold
        if self.is_ours and await self._status() != "running":
            raise PeerError(f"{self._monitor.name}: does not run after cont")
        self._end_hold()

    async def _status(self) -> str:
        return (await self._monitor.ask("query-status")).member("status").text()

    def _read_events(self) -> None:
        """Evaluates the events until now."""
        for event in self._monitor.events():
            if self._asked:
                self._moved = True
            if event == "RESUME":
                self._end_hold()

    def _end_hold(self) -> None:
        if self.is_ours:
            self.is_ours = False
            self._held_ns = clock.now_ns() - self._since_ns
