"""What a hold needs of QEMU: its statuses, and what a migration makes of a VM that is stopped.

Facts (QEMU, softmmu/runstate.c, qapi/run-state.json): `stop` silently does nothing to a VM that is
not running; from "paused" a VM can go to running, shutdown, prelaunch (a reset),
finish-migrate, postmigrate and colo only. A migration that completes leaves "postmigrate", and one
that fails at its end does so too (7.2); `cont` after the first would run the guest a second time.
Decision: no VM in migration is stopped, and only one that is still as `stop`, a later reset or a
failed migration left it is continued; once another client's RESUME was seen it is no longer ours.
"""

from __future__ import annotations

from typing import Final

from pagecheck.errors import SourceError
from pagecheck.vmm.answers import NO_MIGRATION, Answer
from pagecheck.vmm.hold.controller import Carried, Seen, Step
from pagecheck.vmm.hold.listener import Listener
from pagecheck.vmm.hold.monitor import Monitor

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

FAILED: Final = frozenset({"failed", "cancelled"})


class QemuControl(Monitor):
    """A QEMU whose VM can be stopped and continued; see `controller.Controller`."""

    def __init__(self, path: str, known: Listener | None = None) -> None:
        """Does not connect yet.

        Args:
            known: who must listen there; without it, whoever does at the first connection.
        """
        super().__init__(path, known)
        self._carried = False
        self._before: Answer | None = None  # what query-migrate said before

    async def prepare(self) -> None:
        """Takes down how the last migration ended.

        Raises:
            SourceError: one is going on.
        """
        self._carried = False
        self._before = await self._require_no_migration()

    async def _require_no_migration(self) -> Answer:
        """A migration takes the run state along to its destination when it ends: stopped then, the
        guest is stopped there, where nobody continues it.

        Source: global_state_store() in migration/global_state.c.
        """
        answer = await self.ask("query-migrate")
        status = answer.optional("status")
        if status is not None and status.text() not in NO_MIGRATION:
            raise SourceError(
                f"{self.name}: is not paused during its migration ({status.text()[:40]}), "
                "which would leave the guest stopped at the destination; scan it without pausing"
            )
        return answer

    async def status(self) -> str:
        """QEMU's run state."""
        return (await self.ask("query-status")).member("status").text()

    def runs(self, status: str) -> bool:
        """Whether the guest runs."""
        return status == "running"

    def is_still(self, status: str) -> bool:
        """Whether nothing writes guest RAM."""
        return status in STOPPED

    async def stop(self) -> bool:
        """Stops it; returns whether somebody continued it before that."""
        await self.execute("stop")
        resumed = "RESUME" in self.events()
        await self._require_no_migration()  # one may have begun right before it
        return resumed

    async def cont(self) -> None:
        """Continues it."""
        await self.execute("cont")

    async def step(self, status: str) -> Step:
        """What is to be done about a VM of ours that is in this status."""
        if status == "paused":
            return "cont"
        if status in ("prelaunch", "postmigrate", "finish-migrate"):
            return await self._after_migration(status)
        return "wait" if status in PASSING else "leave"  # running, or where `stop` does not lead

    async def _after_migration(self, status: str) -> Step:
        """The same, where a migration may have begun since we stopped it."""
        answer = await self.ask("query-migrate")
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

    def seen(self) -> Seen:
        """The events until now."""
        events = self.events()
        return Seen(bool(events), "RESUME" in events)

    async def mark(self) -> None:
        """Nothing to do: events tell what happens from now on."""

    def doubt(self) -> str | None:
        """None: events tell what happened."""
        return None

    def require_here(self) -> None:
        """Raises Carried where a migration took the VM away."""
        if self._carried:
            raise Carried(
                f"{self.name}: a migration took the VM away while it was stopped for the "
                "scan, and it is stopped at its destination: run cont there"
            )
