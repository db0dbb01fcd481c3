"""A QEMU without a guest's kernel: its firmware runs, or nothing does, and its RAM is there.

It is ready at once. One monitor, over an inherited socket, is the test's; another one, on a path,
is for what is tested.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_for
from tools.guest.qmp import Qmp

SECONDS = 10.0


class EventfulQmp(Qmp):
    """Keeps the names of STOP, RESUME and RESET events, which the guest tool skips."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self.events: list[str] = []
        super().__init__(connection, deadline)

    def _next_message(self, awaited: str, deadline: float) -> dict[str, Any]:
        message = super()._next_message(awaited, deadline)
        if message.get("event") in ("STOP", "RESUME", "RESET"):
            self.events.append(message["event"])
        return message

    def wait_event(self, name: str, deadline: float) -> None:
        while name not in self.events:
            self._next_message(name, deadline)


class BareQemu:
    """A running QEMU.

    Attributes:
        process: QEMU.
        socket: path of the QMP socket that nobody is connected to.
    """

    def __init__(self, process: subprocess.Popen[bytes], qmp: EventfulQmp, path: Path) -> None:
        self.process = process
        self.socket = path
        self._qmp = qmp

    @property
    def pid(self) -> int:
        return self.process.pid

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Runs a command on the test's own monitor."""
        return self._qmp.execute(command, arguments, time.monotonic() + SECONDS)

    def human(self, line: str) -> str:
        return str(self.qmp("human-monitor-command", **{"command-line": line}))

    def own_events(self) -> list[str]:
        """Takes the names of the events until now: those that came before an answer."""
        self.qmp("query-name")
        events, self._qmp.events = self._qmp.events, []
        return events

    def wait_event(self, name: str) -> None:
        """Waits until an event of this name came, since the last call of `own_events`."""
        self._qmp.wait_event(name, time.monotonic() + SECONDS)

    def wait_status(self, status: str) -> None:
        """Waits until query-status says so."""
        wait_for(lambda: self.status() == status, f"QEMU is {status}", SECONDS)

    def status(self) -> str:
        return str(self.qmp("query-status")["status"])


@contextlib.contextmanager
def bare_qemu(
    *args: str,
    machine: str = "q35",
    size: str = "64M",
    fds: Sequence[int] = (),
    uid: int = 0,
    program: str | Path = "qemu-system-x86_64",
    environment: Mapping[str, str] = {},
) -> Iterator[BareQemu]:
    """Starts QEMU and waits until its monitors are there.

    Args:
        *args: more arguments, such as backends.
        machine: of -machine.
        size: of -m.
        fds: descriptors that it inherits under their numbers.
        program: QEMU; the one in PATH, if no other is given.
        environment: more of it; in FAULT_NOT_FD the test's own monitor is put.
        uid: who runs it, if this process is root; everybody may search the folder of its socket.
    """
    with tempfile.TemporaryDirectory(prefix="pctest-") as folder:
        path = Path(folder) / "qmp"
        ours, theirs = socket.socketpair()
        command = ["setpriv", "--pdeathsig", "KILL"]
        if uid:
            command += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            os.chown(folder, uid, uid)
        Path(folder).chmod(0o755)
        command += ["--", str(program)]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-accel", "tcg"]
        command += ["-chardev", f"socket,id=own,fd={theirs.fileno()}", "-mon", "own,mode=control"]
        command += ["-qmp", f"unix:{path},server=on,wait=off", "-machine", machine, "-m", size]
        process = subprocess.Popen(
            [*command, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), *fds),
            env={**os.environ, **environment, "FAULT_NOT_FD": str(theirs.fileno())},
        )
        theirs.close()
        try:
            # QEMU makes all its sockets before it speaks on any.
            yield BareQemu(process, EventfulQmp(ours, time.monotonic() + SECONDS), path)
        finally:
            ours.close()
            process.kill()
            process.wait(SECONDS)


def memfd_backend(size: str, name: str = "mem0", more: str = "") -> tuple[str, str]:
    """Arguments for a memfd backend."""
    return "-object", f"memory-backend-memfd,id={name},size={size}{more}"


def file_backend(size: str, path: str | Path, more: str = ",share=on") -> tuple[str, str]:
    """Arguments for a file backend with the id mem0."""
    return "-object", f"memory-backend-file,id=mem0,size={size},mem-path={path}{more}"


def same_file(fd: int, path: str | Path) -> bool:
    """Whether a descriptor and a path lead to one file."""
    return os.path.samestat(os.fstat(fd), os.stat(path))
