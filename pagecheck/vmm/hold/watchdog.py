"""The program that holds the connection to a VMM, and continues its VM when its owner dies.

Facts: a VM that was stopped stays stopped when the client who did it goes away; a QMP socket serves
one client at a time. Danger: the process that stopped the VM may be killed, and the guest is
stopped for ever. Decision: one process of its own, in a session of its own that ignores signals,
stops and continues the VM. It learns of its owner's death from the end of their socket pair, and
from the owner's pidfd, should another process have inherited the owner's end.

Where the VM cannot be continued, because its VMM is frozen or in the middle of something, it stays
for as long as the VMM lives; nothing waits for it. It then reports to its stderr, which is a memfd,
and to the system's log: neither can block it, as a pipe could whose reader is gone.

It receives and sends a line of JSON a packet (see `wire.py`): `execute` with `arguments` and
descriptors, `pause` with `max_ns`, `punch`, `resume` with `leave`, `quit`, `status`, `rescue` and
`end`, each with an `id` and answered by one `return` or `error` of that id, with `held`: whether
the VM is stopped by us. `ready` or `error` comes first, `busy` now and then while an answer takes
long. An answer too large for a packet comes in a memfd. Left unhandled: RAM that others write
although the VM is stopped (`loadvm`, a debugger, a VFIO device that cannot be quiesced) is not
noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any, Final

from pagecheck.child.signals import release_signals
from pagecheck.child.wire import Closed, Link
from pagecheck.errors import (
    AccessError,
    EngineError,
    InternalError,
    PagecheckError,
    PeerError,
    SourceError,
    to_wire,
)
from pagecheck.shortage import refused
from pagecheck.vmm.hold.acting import acting_as, from_text
from pagecheck.vmm.hold.listener import Gone, Listener
from pagecheck.vmm.hold.watchdog_log import write_line
from pagecheck.vmm.kinds import CROSVM, KINDS, QEMU

if TYPE_CHECKING:
    from pagecheck.vmm.hold.acting import User
    from pagecheck.vmm.hold.controller import Controller
    from pagecheck.vmm.hold.hold import Hold
    from pagecheck.vmm.kinds import VmmKind

REQUEST_S: Final = 30.0
BEAT_S: Final = 2.0  # between two `busy` while a request is carried out
END_S: Final = 3.0  # the owner waits so long for the VM to run
PACKET_BYTES: Final = 32768

_IGNORED: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE)


def main(fd: int, prefix: str, path: str, owner: str, known: str = "", users: str = "") -> int:
    """Runs the watchdog on the inherited end of its socket pair.

    Args:
        fd: the end's descriptor.
        prefix: of the VMM's kind.
        path: the VMM's socket.
        owner: the owner's process id.
        known: empty, or who listens there, as JSON, for a watchdog that replaces a dead one
            which had stopped the VM.
        users: those in whose names the first connection may be made, in order; see `acting.py`.

    Returns:
        The process's exit status, 0.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    release_signals()
    link = Link.inherited(fd)
    kind = KINDS[prefix]
    try:
        from pagecheck.vmm.hold.hold import Hold

        vmm = _controller(kind, path, Listener(*json.loads(known)) if known else None)
    except ImportError as error:
        why = f"{prefix}:{path}: {error}; pip install {kind.library}"
        _send(link, _failure(EngineError(why)))
        return 0
    hold = Hold(vmm, write_line)
    if known:
        hold.adopt()
    try:
        pidfd = os.pidfd_open(int(owner))
    except OSError:
        pidfd = -1
    if pidfd < 0 or os.getppid() != int(owner):
        # It died; the number may be another process's already.
        link.close()
        pidfd = -1
    # Not asyncio.run: the process ends at once, whatever the library's tasks still wait for.
    try:
        loop = asyncio.new_event_loop()
    except OSError as error:
        if known:  # the owner starts another one, which may continue the VM
            raise
        _send(link, _failure(refused(f"{prefix}:{path}: cannot be waited for", error)))
        return 0
    loop.run_until_complete(Watchdog(link, vmm, hold, from_text(users)).run(pidfd))
    return 0


def _controller(kind: VmmKind, path: str, known: Listener | None) -> Controller:
    """What asks a VMM of this kind; only its own library is loaded."""
    if kind is QEMU:
        from pagecheck.vmm.hold.qemu_control import QemuControl

        return QemuControl(path, known)
    if kind is CROSVM:
        from pagecheck.vmm.hold.crosvm_control import CrosvmControl

        return CrosvmControl(path, known)
    from pagecheck.vmm.hold.api_control import ApiControl

    return ApiControl(kind, path, known)


class Watchdog:
    """Serves one owner over one connection."""

    def __init__(
        self, link: Link, vmm: Controller, hold: Hold, users: tuple[User | None, ...] = (None,)
    ) -> None:
        self._link = link
        self._vmm = vmm
        self._hold = hold
        self._users = users
        self._asked: asyncio.Queue[tuple[dict[str, Any], list[int]] | None] = asyncio.Queue()
        self._resuming: asyncio.Task[None] | None = None

    async def run(self, owner: int) -> None:
        """Serves until the owner is gone, then continues the VM if it is ours, however long that
        takes.

        Args:
            owner: pidfd of the owner, or -1 where it is gone already.
        """
        loop = asyncio.get_running_loop()
        try:
            if owner >= 0:
                loop.add_reader(self._link.fileno(), self._receive, owner)
                loop.add_reader(owner, self._end, owner)
                ready = await self._connect()
                if "error" in ready:  # a VM that a dead watchdog stopped may wait for us
                    self._resuming = asyncio.ensure_future(self._hold.resume_if_ours())
                if _send(self._link, ready) and ("ready" in ready or self._hold.is_ours):
                    await self._serve()
        finally:
            await self._hold.resume_if_ours()
            await self._vmm.close()

    def _receive(self, owner: int) -> None:
        try:
            received = self._link.receive(0)
        except (Closed, InternalError):
            self._end(owner)
            return
        if received is not None:
            self._asked.put_nowait(received)

    def _end(self, owner: int) -> None:
        """The owner is gone: nothing more is received."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._link.fileno())
        loop.remove_reader(owner)
        self._asked.put_nowait(None)

    async def _connect(self) -> dict[str, Any]:
        try:
            for number, user in enumerate(self._users):
                if (listener := await self._connect_as(user)) is not None:
                    return {"ready": {"listener": listener, "user": number}}
            shown = ", ".join(str(os.geteuid() if u is None else u.uid) for u in self._users)
            raise AccessError(f"{self._vmm.name}: may not be connected to by user {shown}")
        except Gone as error:
            self._hold.is_ours = False
            return {**_failure(error), "held": False}
        except PagecheckError as error:
            return {**_failure(error), "held": self._hold.is_ours}

    async def _connect_as(self, user: User | None) -> Listener | None:
        """Who listens there; None where others may connect, but this user may not."""
        try:
            with acting_as(user):
                return await self._vmm.connect()
        except (OSError, SourceError) as error:
            not_permitted = isinstance(error, OSError) or isinstance(
                error.__cause__, PermissionError
            )
            if self._users == (None,) or not not_permitted:
                raise
            return None

    async def _serve(self) -> None:
        while (asked := await self._asked.get()) is not None:
            message, fds = asked
            beating = asyncio.ensure_future(self._beat())
            try:
                answer = await self._answer(message, tuple(fds))
            finally:
                for fd in fds:
                    os.close(fd)
            beating.cancel()
            held = {"held": self._hold.is_ours}
            if not _send(self._link, {**answer, **held, "id": message.get("id")}):
                return

    async def _beat(self) -> None:
        """Reports to the owner that we are alive, and only wait."""
        while True:
            await asyncio.sleep(BEAT_S)
            _send(self._link, {"busy": True})

    async def _answer(self, message: dict[str, Any], fds: tuple[int, ...]) -> dict[str, Any]:
        name, vmm = self._vmm.name, self._vmm.kind.vmm
        try:
            async with asyncio.timeout(REQUEST_S):
                return {"return": await self._carry_out(message, fds)}
        except TimeoutError:
            return _failure(PeerError(f"{name}: {vmm} was not done in {REQUEST_S:.0f} s"))
        except PagecheckError as error:
            return _failure(error)
        except Exception as error:
            return _failure(InternalError(f"{name}: {error!r}"))

    async def _carry_out(self, message: dict[str, Any], fds: tuple[int, ...]) -> Any:
        match message:
            case {"execute": str(command)}:
                return await self._vmm.execute(command, message.get("arguments"), fds)
            case {"pause": {"max_ns": int(max_ns)}}:
                return await self._hold.pause(max_ns)
            case {"resume": {"leave": bool(leave)}}:
                return await self._hold.resume(leave=leave)
            case {"quit": {}}:
                return await self._hold.resume(quit=True)
            case {"punch": {"unit": int(unit), "kernel": str(kernel), "ranges": list(ranges)}}:
                return await self._hold.punch(fds[0], unit, kernel, ranges)
            case {"status": {}}:
                return await self._hold.ask()
            case {"rescue": {}}:
                return await self._hold.force_resume()
            case {"end": {}}:
                return await self._hold.end(END_S)
        raise InternalError(f"{self._vmm.name}: unknown request: {str(message)[:80]}")


def _failure(error: Exception) -> dict[str, Any]:
    return {"error": to_wire(error)}


def _send(link: Link, message: dict[str, Any]) -> bool:
    """Sends it; False where the owner is gone."""
    try:
        text = json.dumps(message).encode()
    except RecursionError:  # an answer that could just be read
        message = {
            **_failure(PeerError("the VMM's answer is nested too deeply")),
            "id": message["id"],
        }
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
