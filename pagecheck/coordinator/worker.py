"""One worker process: it gets a ring, attaches RAM blocks, and says how that went; and what
becomes of a channel that has none."""

from __future__ import annotations

from pagecheck.child.process import Child, Program
from pagecheck.child.signals import signals_held
from pagecheck.child.watch import await_reply
from pagecheck.errors import InternalError, from_wire

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from typing import Any, Final

    from pagecheck.child.watch import IsOver
    from pagecheck.shm.ring import Ring

PROGRAM: Final = Program("from pagecheck.workers.program import main")


class ChannelLost(Exception):
    """The channel cannot be kept alive; its unfinished pages stay undecided.

    Attributes:
        passing: for want of something that may be there again later; else for good.
    """

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


class TooLate(Exception):
    """The job's deadline passed while a worker was started or spoken to."""


class WorkerProcess(Child):
    """A running worker. `open` and its reply `ready` make it ready."""

    def __init__(self, channel: int) -> None:
        """Starts it.

        Raises:
            EngineError: no process can be started here; ResourceError: not at this moment.
        """
        self.channel = channel
        super().__init__("worker", PROGRAM, where=f"channel {channel}: ")

    def open(self, ring: Ring, settings: dict[str, Any]) -> None:
        """Gives it its ring.

        Args:
            settings: what else the message `open` holds.

        Raises:
            ChildDied: it is gone already.
        """
        self.send({"open": {"channel": self.channel, **settings}}, (ring.fd, ring.control_fd))

    def attach(
        self, message: dict[str, Any], fds: tuple[int, ...], wake: Callable[[], None]
    ) -> None:
        """Asks it to attach a RAM block; the reply is `attached`.

        Args:
            message: `Block.attach_message`.
            wake: makes the worker look at its socket; called once the message is there.

        Raises:
            ChildDied: it is gone.
        """
        self.send({"attach": message}, fds)
        wake()

    def detach(self, block: int, wake: Callable[[], None]) -> None:
        """Asks it to forget a block; the reply is `detached`. Raises as `attach`."""
        self.send({"detach": {"block": block}})
        wake()

    def receive_reply(self, kind: str, deadline_ns: int) -> dict[str, Any] | None:
        """Waits for what it says next: `ready`, `attached` or `detached`.

        Returns:
            The body of the message; None when the absolute time passed.

        Raises:
            ChildDied: it ended.
            PagecheckError: it reports one: the engine cannot run here, what was asked for is
                invalid, the host did not give it what it needs.
            InternalError: it says something else.
        """
        received = self.receive(deadline_ns)
        if received is None:
            return None
        message, _fds = received
        if "error" in message:
            error = from_wire(message["error"], self._where)
            if isinstance(error, OSError):
                from pagecheck.shortage import refused  # not needed where all goes well

                raise refused(f"{self._where}worker {self.pid} failed", error) from error
            raise error
        body = message.get(kind)
        if not isinstance(body, dict):
            raise InternalError(f"channel {self.channel}: worker said {message!r}, not {kind!r}")
        return body

    def await_reply(self, kind: str, is_over: IsOver, deadline_ns: int) -> dict[str, Any] | None:
        """Waits for a reply for as long as the worker may owe it.

        Args:
            is_over: whether it may be silent no longer.
            deadline_ns: absolute; the reply can be waited for again afterwards.

        Raises:
            ChildDied: it ended; `ChildSilent`: it is silent for longer than it may be.
            PagecheckError: as `receive_reply`.
        """
        return await_reply(
            lambda until_ns: self.receive_reply(kind, until_ns),
            is_over,
            deadline_ns,
            f"worker {self.pid} did not say {kind!r} in time",
        )


def start_ahead(stack: ExitStack) -> WorkerProcess:
    """The first worker, which starts while all else that a coordinator needs is being loaded.

    Args:
        stack: ends it, unless its coordinator did so before.

    Raises:
        EngineError: no process can be started here; ResourceError: not at this moment.
    """
    with signals_held():
        worker = WorkerProcess(0)
        stack.callback(worker.close)
        stack.callback(worker.kill)
    return worker
