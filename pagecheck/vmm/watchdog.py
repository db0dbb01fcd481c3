"""The program that holds a VM's QMP connection, and continues the VM when its owner dies.

Facts: a QMP socket serves one client at a time; a VM that was stopped stays stopped when its client
goes away. Danger: whoever stopped the VM may be killed, and then a guest stands still for ever.
Decision: one process of its own, in a session of its own and deaf to signals, stops and continues
the VM. It learns of its owner's death from the end of their socket pair, and from the owner's
pidfd, should somebody have inherited the owner's end.

What it hears and says is a line of JSON a packet (see `wire.py`): `execute` with `arguments`,
`pause` with `max_ns`, `resume`, `status` and `rescue`, each with an `id` and answered by one
`return` or `error` of that id; `ready` or `error` comes first. An answer too large for a packet
comes in a memfd. Left unhandled: RAM that others write although the VM is stopped (`loadvm`, a
debugger, a VFIO device that cannot be quiesced) is not noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from pagecheck.errors import EngineError, InternalError, PagecheckError, PeerError
from pagecheck.wire import Closed, Link

if TYPE_CHECKING:
    from pagecheck.vmm.hold import Hold
    from pagecheck.vmm.monitor import Monitor

CONTINUE_S: Final = 60.0
REQUEST_S: Final = 30.0
PACKET_BYTES: Final = 32768

_DEAF_TO: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE)


def main(fd: int, path: str, owner: int) -> int:
    """Runs the watchdog on the inherited end of its socket pair.

    Args:
        fd: the end's descriptor.
        path: the QMP socket.
        owner: the owner's process id.

    Returns:
        The process's exit status: 0, or 1 if a VM that it had stopped could not be continued.
    """
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # they were held while it was started
    link = Link.inherited(fd)
    try:
        from pagecheck.vmm.hold import Hold
        from pagecheck.vmm.monitor import Monitor
    except ImportError as error:
        _say(link, _failure(EngineError(f"qmp:{path}: {error}; pip install qemu.qmp")))
        return 0
    try:
        pidfd = os.pidfd_open(owner)
    except OSError:
        return 0
    if os.getppid() != owner:  # it died, and the number may be somebody else's already
        return 0
    monitor = Monitor(path)
    # Not asyncio.run: the process ends at once, whatever the library's tasks still wait for.
    return asyncio.new_event_loop().run_until_complete(
        Watchdog(link, monitor, Hold(monitor)).run(pidfd)
    )


class Watchdog:
    """Serves one owner over one connection."""

    def __init__(self, link: Link, monitor: Monitor, hold: Hold) -> None:
        self._link = link
        self._monitor = monitor
        self._hold = hold
        self._asked: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def run(self, owner: int) -> int:
        """Serves until the owner is gone, then lets the VM go.

        Args:
            owner: pidfd of the owner.

        Returns:
            0, or 1 if the VM could not be continued.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._link.fileno(), self._hear, owner)
        loop.add_reader(owner, self._end, owner)
        try:
            ready = await self._connect()
            if _say(self._link, ready) and "ready" in ready:
                await self._serve()
        finally:
            let_go = await self._hold.let_go(CONTINUE_S)
            await self._monitor.close()
        return 0 if let_go else 1

    def _hear(self, owner: int) -> None:
        try:
            received = self._link.receive(0)
        except (Closed, InternalError):
            self._end(owner)
            return
        if received is not None:
            self._asked.put_nowait(received[0])

    def _end(self, owner: int) -> None:
        """The owner is gone: nothing more is heard."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link.fileno())
        loop.remove_reader(owner)
        self._asked.put_nowait(None)

    async def _connect(self) -> dict[str, Any]:
        try:
            return {"ready": {"peer_pid": await self._monitor.connect()}}
        except PagecheckError as error:
            return _failure(error)

    async def _serve(self) -> None:
        while (message := await self._asked.get()) is not None:
            answer = {**await self._answer(message), "id": message.get("id")}
            if not _say(self._link, answer):
                return

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        name = self._monitor.name
        try:
            async with asyncio.timeout(REQUEST_S):
                return {"return": await self._carry_out(message)}
        except TimeoutError:
            return _failure(PeerError(f"{name}: QEMU did not get ready in {REQUEST_S:.0f} s"))
        except PagecheckError as error:
            return _failure(error)
        except Exception as error:
            return _failure(InternalError(f"{name}: {error!r}"))

    async def _carry_out(self, message: dict[str, Any]) -> Any:
        match message:
            case {"execute": str(command)}:
                return await self._monitor.execute(command, message.get("arguments"))
            case {"pause": {"max_ns": int(max_ns)}}:
                return await self._hold.pause(max_ns)
            case {"resume": {}}:
                return await self._hold.resume()
            case {"status": {}}:
                return await self._hold.ask()
            case {"rescue": {}}:
                return await self._hold.rescue()
        raise InternalError(f"{self._monitor.name}: not understood: {str(message)[:80]}")


def _failure(error: PagecheckError) -> dict[str, Any]:
    kind = next(
        each.__name__
        for each in type(error).__mro__
        if each.__module__ == PagecheckError.__module__
    )
    return {"error": {"class": kind, "message": str(error)}}


def _say(link: Link, message: dict[str, Any]) -> bool:
    """Sends it; False where nobody hears it any more."""
    try:
        text = json.dumps(message).encode()
    except RecursionError:  # an answer that could just be read
        message = {**_failure(PeerError("QEMU's answer is nested too deeply")), "id": message["id"]}
        text = json.dumps(message).encode()
    with contextlib.suppress(Closed):
        if len(text) <= PACKET_BYTES:
            link.send(message)
            return True
        fd = os.memfd_create("pagecheck-answer")
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(text)
            link.send({"large": len(text)}, (fd,))
        finally:
            os.close(fd)
        return True
    return False
