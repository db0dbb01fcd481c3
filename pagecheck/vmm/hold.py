"""The watchdog's hold on the VM: when it may stop it, when it must continue it.

Facts (QEMU, softmmu/runstate.c, qapi/run-state.json): `stop` does nothing to a VM that is not
running; from "paused" a VM can go to running, shutdown, prelaunch (a reset), finish-migrate,
postmigrate and colo only. `cont` in "postmigrate" would run the guest a second time.
Danger: a VM that is continued against its operator's will, or never. Decision: only a VM that was
running is stopped, and only one that is still as `stop` or a later reset left it is continued; as
soon as somebody else's RESUME was seen it is not ours any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.vmm.monitor import Gone, Monitor

RETRY_S: Final = 0.05

# Statuses in which nothing writes guest RAM. Left out: inmigrate, restore-vm and colo (a stream
# or a checkpoint is loaded into it), postmigrate (with x-ignore-shared the destination runs on the
# same file), suspended (a wake-up makes it run without `cont`), preconfig (there is no RAM yet).
# prelaunch is in: the reset that loads the firmware is over before the monitor answers.
STILL: Final = frozenset(
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
OURS: Final = frozenset({"paused", "prelaunch"})
PASSING: Final = frozenset({"finish-migrate", "save-vm", "restore-vm", "colo"})

# A migration stores the run state for its destination: stopped now, the guest would be stopped
# there, where nobody continues it. Source: global_state_store() in migration/global_state.c.
MIGRATING: Final = frozenset(
    {
        "setup",
        "cancelling",
        "active",
        "postcopy-active",
        "postcopy-paused",
        "postcopy-recover",
        "pre-switchover",
        "device",
        "wait-unplug",
    }
)


class Hold:
    """What we did to the VM, and whether its RAM stood still since."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._one = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._forget()

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._asked = False
        self._ours = False
        self._stopped_by_us = False
        self._moved = False
        self._expired = False
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
            migration = (await self._monitor.ask("query-migrate")).optional("status")
            if migration is not None and migration.text() in MIGRATING:
                raise SourceError(
                    f"{self._monitor.name}: is not paused during its migration, which would leave "
                    "the guest stopped at the destination; scan it without pausing"
                )
            await self._continue()  # of a pause that failed
            status = await self._status()
            self._look()
            self._forget()
            self._asked = True
            try:
                if status == "running":
                    await self._stop(max_ns)
                    status = await self._status()
                self._look()
            except Exception:
                self._asked = False  # no pause; where this does not help, the timer or the end does
                with contextlib.suppress(SourceError, PeerError):
                    await self._continue()
                raise
            self._moved = self._moved or status not in STILL
            return {"status": status, "stopped_by_us": self._stopped_by_us}

    async def _stop(self, max_ns: int) -> None:
        # Ours from before the command is sent: one that is not answered may yet be carried out.
        self._ours = self._stopped_by_us = True
        self._since_ns = time.monotonic_ns()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max_ns / 1e9, self._time_is_up)
        await self._monitor.execute("stop")
        # A RESUME from before our STOP does not end our hold; where it came after it, the status
        # is running, and that does.
        self._moved = "RESUME" in self._monitor.events()

    async def resume(self) -> dict[str, Any]:
        """Continues the VM if it is ours.

        Returns:
            The fields of `PauseResult`.

        Raises:
            UsageError: it was not paused.
            PeerError: QEMU does not answer or does not continue it.
        """
        async with self._one:
            if not self._asked:
                raise UsageError(f"{self._monitor.name}: is not paused")
            try:
                status = await self._status()
                self._look()
                still = status in STILL and not self._moved and not self._expired
                await self._continue()
            except Gone:
                self._forget()
                raise
            result = {
                "paused_ns": self._held_ns,
                "stood_still": still,
                "expired": self._expired,
                "stopped_by_us": self._stopped_by_us,
            }
            self._forget()
            return result

    async def ask(self) -> dict[str, Any]:
        """The VM's status, and whether guest RAM stands still in it."""
        status = await self._status()
        return {"status": status, "still": status in STILL}

    async def rescue(self) -> dict[str, Any]:
        """Continues a VM that a watchdog stopped which is dead now."""
        async with self._one:
            self._ours = True
            self._since_ns = time.monotonic_ns()
            await self._continue()
            return {}

    async def let_go(self, within_s: float) -> bool:
        """Continues the VM if it is ours, at the end of everything; tries again until it works.

        Returns:
            False if it could not be done in time.
        """
        try:
            async with asyncio.timeout(within_s), self._one:
                while self._ours:
                    try:
                        await self._continue()
                    except Gone:
                        return True
                    except (SourceError, PeerError):
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            return False
        return True

    def _time_is_up(self) -> None:
        self._expiring = asyncio.get_running_loop().create_task(self._expire())

    async def _expire(self) -> None:
        async with self._one:
            while self._ours:
                self._look()
                self._expired = self._expired or self._ours
                try:
                    await self._continue()
                except Gone:
                    self._ours = False
                except (SourceError, PeerError):
                    await asyncio.sleep(RETRY_S)

    async def _continue(self) -> None:
        """Continues the VM, unless it is somebody else's by now.

        Raises:
            Gone: QEMU ended.
            PeerError, SourceError: it did not work this time.
        """
        while self._ours:
            try:
                status = await self._status()
            except (SourceError, PeerError):
                self._moved = True  # what happened without a connection is not known
                await self._monitor.connect()
                continue
            self._look()
            if not self._ours:
                return
            if status in OURS:
                try:
                    await self._monitor.execute("cont")
                finally:
                    self._look()  # our own RESUME, which ends the hold
                if self._ours and await self._status() != "running":
                    raise PeerError(f"{self._monitor.name}: does not run after cont")
                self._end_hold()
            elif status in PASSING:
                await asyncio.sleep(RETRY_S)
            else:
                self._end_hold()  # running, or in a state that `stop` does not lead to

    async def _status(self) -> str:
        return (await self._monitor.ask("query-status")).member("status").text()

    def _look(self) -> None:
        """Takes notice of the events until now."""
        for event in self._monitor.events():
            if self._asked:
                self._moved = True
            if event == "RESUME":
                self._end_hold()

    def _end_hold(self) -> None:
        if self._ours:
            self._ours = False
            self._held_ns = time.monotonic_ns() - self._since_ns
