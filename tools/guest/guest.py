"""A running guest: boots it, drives it over QMP, and leaves nothing behind.

The RAM file is the tool's own: it makes it and removes it. QEMU is a child in a session of its
own, so a Ctrl-C meant for the caller does not reach it, and the kernel kills it when the thread
that booted it dies.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tools.guest.console import Console
from tools.guest.disk import make_disk
from tools.guest.errors import GuestError, MissingPiece
from tools.guest.fetch import locate
from tools.guest.qmp import Qmp
from tools.guest.running import FILLED, RunningGuest
from tools.guest.spec import MIB, GuestSpec

RAM_PREFIX = "pagecheck-guest-"

_REAP_S = 10.0
_QMP_S = 10.0
_YOUNG_S = 60.0


class Guest(RunningGuest):
    """A guest that has filled its memory; made by `Guest.boot`.

    Attributes:
        spec: What guest it is.
        ram_path: Where its RAM can be opened; for a memfd, a path below /proc/PID/fd. The empty
            path for "private" and "numa", whose RAM no one file holds.
        boot_s: Seconds from the start of QEMU until the guest had filled its memory.
        command: The command line of its machine, without serial port and monitor: with them added
            (`-serial file:LOG`, say), it starts another such machine.
    """

    def __init__(
        self, spec: GuestSpec, command: list[str], qemu_pid: int, console: Console, qmp: Qmp
    ) -> None:
        super().__init__(qemu_pid, console)
        self.spec = spec
        self.command = command
        self.ram_path = Path()
        self.boot_s = 0.0
        self._qmp = qmp

    @classmethod
    @contextmanager
    def boot(
        cls,
        *,
        size_bytes: int = 256 * MIB,
        machine: str = "q35",
        backend: str = "file",
        random_mb: int = 4,
        zeros_mb: int = 4,
        check_every_s: float = 0.5,
        disk: Path | None = None,
        write_mib_s: int = 0,
        qemu: str = "",
        timeout_s: float = 120.0,
        ram_folder: Path = Path("/dev/shm"),
        extra: Sequence[str] = (),
    ) -> Iterator["Guest"]:
        """Boots a guest and waits until it has filled its memory; it then runs.

        At the end of the block, whatever happened in it, QEMU is killed and reaped and the RAM
        file is removed.

        Args:
            size_bytes: Guest RAM, a multiple of 1 MiB.
            machine: "q35", "pc" or "microvm"; "virt": ARM, on QEMU 10.
            backend: "file", "memfd", "devfd", "private" or "numa".
            random_mb: MiB of random bytes that the guest keeps; it frees half as many again.
            zeros_mb: MiB of zero bytes that the guest keeps.
            check_every_s: Seconds between two checks of the guest's memory.
            disk: An image for a virtio disk, made if it is not there and left behind; the guest
                formats it. On q35 and pc. See `GuestSpec`.
            write_mib_s: At which rate the guest changes memory all the time, in MiB/s.
            qemu: "10" for the QEMU 10 that was fetched, else the one in PATH.
            timeout_s: How long boot and filling may take, in seconds.
            ram_folder: Where the RAM file is made.
            extra: More arguments for QEMU.

        Yields:
            The running guest.

        Raises:
            MissingPiece: This machine lacks something that a guest needs.
            DeadlinePassed: The guest was not filled in time.
            GuestError: The values make no guest, or QEMU ended.
        """
        deadline = time.monotonic() + timeout_s
        spec = GuestSpec(
            size_bytes, machine, backend, random_mb, zeros_mb, check_every_s, disk, write_mib_s
        )
        files = locate(machine=machine, disk=disk is not None, qemu=qemu)
        if disk is not None and not disk.exists():
            make_disk(disk)
        with ExitStack() as stack:
            ram_file = _ram_file(stack, spec, ram_folder) if backend == "file" else None
            memfd = _memfd(stack, spec) if backend == "devfd" else None
            if memfd is not None:
                ram_file = Path(f"/dev/fd/{memfd}")
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            with theirs:
                command = spec.arguments(files, ram_file, extra)
                own = ["-serial", "stdio", "-mon", "chardev=own,mode=control"]
                own += ["-chardev", f"socket,id=own,fd={theirs.fileno()}"]
                started = time.monotonic()
                passed = (theirs.fileno(),) if memfd is None else (theirs.fileno(), memfd)
                process = _start(stack, [*command, *own], passed)
            console = Console.of_child(process)
            console.wait_line(FILLED, deadline)
            boot_s = time.monotonic() - started
            guest = cls(spec, command, process.pid, console, Qmp(ours, deadline))
            guest.boot_s = boot_s
            if ram_file is not None:
                guest.ram_path = ram_file
            elif backend == "memfd":
                guest.ram_path = _memfd_path(process.pid, spec.size_bytes)
            if memfd is not None:
                guest.ram_path = Path(f"/proc/{os.getpid()}/fd/{memfd}")
            yield guest

    def qmp(self, command: str, /, *, within_s: float = _QMP_S, **arguments: Any) -> Any:
        """Runs a QMP command.

        Args:
            command: Its name.
            within_s: How long the answer may take, in seconds.
            **arguments: Its arguments; pass names that have a dash as `**{"mem-path": ...}`.

        Returns:
            What it returned, as JSON values.

        Raises:
            DeadlinePassed: No answer came in time.
            QmpError: QEMU refused the command or closed the connection.
        """
        return self._qmp.execute(command, arguments, time.monotonic() + within_s)

    def pause(self) -> None:
        """Stops the guest's CPUs; its RAM does not change until `resume`."""
        self.qmp("stop")
        self._expect_status("paused")

    def resume(self) -> None:
        """Resumes the guest's CPUs."""
        self.qmp("cont")
        self._expect_status("running")

    def _expect_status(self, wanted: str) -> None:
        status = self.qmp("query-status")["status"]
        if status != wanted:
            raise GuestError(f"guest (QEMU {self.pid}): is {status}, should be {wanted}")


def _memfd(stack: ExitStack, spec: GuestSpec) -> int:
    fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.ftruncate(fd, spec.size_bytes)
    return fd


def _start(stack: ExitStack, command: list[str], fds: tuple[int, ...]) -> "subprocess.Popen[bytes]":
    leash = shutil.which("setpriv")
    if leash is None:
        raise MissingPiece("no setpriv in PATH; apt-get install util-linux")
    qemu = subprocess.Popen(
        [leash, "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=fds,
        start_new_session=True,
    )
    stack.callback(_end, qemu)
    return qemu


def _end(qemu: "subprocess.Popen[bytes]") -> None:
    """Kills QEMU at once: it holds nothing that would have to be saved."""
    qemu.kill()
    qemu.wait(_REAP_S)
    assert qemu.stdout is not None
    qemu.stdout.close()


def _ram_file(stack: ExitStack, spec: GuestSpec, folder: Path) -> Path:
    sweep(folder)
    room = os.statvfs(folder)
    if room.f_bavail * room.f_frsize < spec.size_bytes:  # QEMU would die of SIGBUS later
        raise MissingPiece(
            f"{folder} has {room.f_bavail * room.f_frsize // MIB} MiB left, guest RAM needs "
            f"{spec.size_bytes // MIB} MiB; make it larger (docker run --shm-size) or use another"
        )
    fd, name = tempfile.mkstemp(prefix=RAM_PREFIX, suffix=".ram", dir=folder)
    path = Path(name)
    stack.callback(os.close, fd)
    fcntl.flock(fd, fcntl.LOCK_EX)  # for as long as we live
    stack.callback(path.unlink, missing_ok=True)
    return path


def sweep(folder: Path) -> None:
    """Removes the RAM files of tools that were killed: nobody holds their locks."""
    for path in folder.glob(f"{RAM_PREFIX}*.ram"):
        with suppress(OSError), path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < _YOUNG_S:
                continue  # may not be locked yet
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _memfd_path(pid: int, size_bytes: int) -> Path:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        named = str(link.readlink()).startswith("/memfd:memory-backend-memfd")
        if named and link.stat().st_size == size_bytes:
            return link
    raise GuestError(f"guest (QEMU {pid}): none of its fds is a memfd of {size_bytes:#x} bytes")
