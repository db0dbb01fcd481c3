"""What a hold needs of a VMM, whichever it is: its status, and to stop and continue its VM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.listener import Listener
from pagecheck.vmm.kinds import VmmKind

Step = Literal["cont", "wait", "leave"]


class Refused(PeerError):
    """The VMM answered a command with an error."""


class Untouched(Refused):
    """The VMM refused to stop its VM, and did not stop it."""


class Silent(PeerError):
    """The VMM did not answer in time; the connection and the command stay."""


class Lost(PeerError):
    """The connection is lost, or was never made."""


class Carried(SourceError):
    """A migration took the VM away while we held it."""


class Seen(NamedTuple):
    """What a VMM reported by itself.

    Attributes:
        moved: guest RAM may have changed although the VM was stopped.
        resumed: the VM was continued.
    """

    moved: bool = False
    resumed: bool = False


class Controller(Protocol):
    """A connection to one VMM, which is asked one command at a time.

    Attributes:
        name: the source as in messages.
        kind: which VMM it is.
    """

    name: str
    kind: VmmKind

    async def connect(self) -> Listener:
        """Connects, or connects again, in at most 5 s.

        Returns:
            Who listens there.

        Raises:
            Gone: the VMM ended since the first connection.
            SourceError: it cannot be connected to.
            PeerError: it is another program, or says nothing.
        """

    async def close(self) -> str:
        """Hangs up; the VMM runs on.

        Returns:
            Why the connection was lost before, if it was.
        """

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, fds: tuple[int, ...] = ()
    ) -> Any:
        """Runs a command that the owner chose; returns what it returned, as JSON values.

        Args:
            fds: descriptors for QEMU; they stay the caller's.

        Raises:
            Refused, Silent, Lost: it did not work.
        """

    async def rest(self, seconds: float) -> None:
        """Waits so long, or until the command in progress was answered."""

    async def prepare(self) -> None:
        """Takes down what matters later, before the VM is stopped.

        Raises:
            SourceError: it must not be stopped now.
        """

    async def status(self) -> str:
        """The VM's status, in the VMM's words."""

    def runs(self, status: str) -> bool:
        """Whether the VM runs in this status."""

    def is_still(self, status: str) -> bool:
        """Whether nothing writes guest RAM in this status."""

    async def stop(self) -> bool:
        """Stops the VM, which runs; returns whether it was continued by somebody before that."""

    async def cont(self) -> None:
        """Continues the VM."""

    async def step(self, status: str) -> Step:
        """What is to be done about a VM of ours that is in this status."""

    def seen(self) -> Seen:
        """What was reported since the last call, and before the last answer."""

    async def mark(self) -> None:
        """The VM is stopped from now on; see `doubt`."""

    def doubt(self) -> str | None:
        """Why guest RAM may have changed since `mark`, whatever the status says; or None."""

    def require_here(self) -> None:
        """Raises Carried where a migration took our VM away."""
