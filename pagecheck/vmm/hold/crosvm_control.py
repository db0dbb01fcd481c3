"""What a hold needs of crosvm, by its own program: `crosvm suspend` and `crosvm resume`.

Facts: crosvm's control socket speaks a protocol of its own version only, which its program knows;
nothing answers whether a VM is suspended. A vCPU's thread of a VM that runs is in KVM_RUN, or on a
CPU; that of one that is suspended waits for a futex. Devices are processes of their own, started by
crosvm, and `--full` suspends them, too. Danger: the program connects to a path, where another VM
may be by then; and it ends before its request was carried out. Decision: it is given the very
socket by descriptor; the threads of crosvm and of all its descendants show the state, and prove
that RAM was unchanged; one request is in progress at a time, by a program that dies with us. What
was suspended and never seen so is resumed whatever its state.

Source: suspend_vms() in crosvm's src/main.rs, run_vcpu() in its src/crosvm/sys/linux/vcpu.rs.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import platform
import shutil
import signal
from collections.abc import Mapping
from typing import Any, Final

from pagecheck import clock
from pagecheck.errors import InternalError, SourceError
from pagecheck.printable import printable
from pagecheck.vmm.hold.controller import Refused, Seen, Silent, Step
from pagecheck.vmm.hold.listener import CONNECT_S, Listener, VmmSocket
from pagecheck.vmm.kinds import CROSVM
from pagecheck.vmm.process.threads import StoppedProof, family_threads, switches_of, system_calls

RUNNING: Final = "running"
PAUSED: Final = "suspended"
COMMAND_S: Final = 10.0
ABANDON_S: Final = 30.0  # then a program is killed; what it asked comes before what is asked next
VCPU: Final = "crosvm_vcpu"  # and a number; the names of the vCPUs' threads
SUSPENDED_S: Final = 1.0  # until the vCPUs have stopped after the program ended
LOOKS: Final = 3  # a vCPU that something else wakes does not run
SAMPLES: Final = 3
SAMPLE_S: Final = 0.005
_CAUSE_CHARS: Final = 200
_FUTEX: Final = {"x86_64": "202", "aarch64": "98"}
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None)


class CrosvmControl:
    """A crosvm; see `controller.Controller`."""

    kind = CROSVM

    def __init__(self, path: str, known: Listener | None = None) -> None:
        """Does not connect yet.

        Args:
            known: who must listen there; without it, whoever does at the first connection.
        """
        self._path = path
        self._place = VmmSocket(path, known, CROSVM)
        self.name = self._place.name
        self._pid = 0 if known is None else known.pid
        self._held = -1  # the socket, whatever is at its path
        self._in_progress: asyncio.Task[tuple[int, str]] | None = None
        self._since_s = 0.0  # when it was started
        self._half_stopped = known is not None
        self._proof = StoppedProof(CROSVM.vmm, lambda: family_threads(self._pid))

    async def connect(self) -> Listener:
        """Finds the process behind the socket, and crosvm's program."""
        held = _opened(self._path)
        try:
            connection, listener = await self._place.connect(clock.now_s() + CONNECT_S)
            connection.close()
            found = None if held < 0 else os.fstat(held)
            if found is None or (found.st_dev, found.st_ino) != listener[1:]:
                raise SourceError(f"{self.name}: was replaced at this moment; start again")
            if shutil.which("crosvm") is None:
                raise SourceError(
                    f"{self.name}: crosvm is not on PATH, and only its own program can suspend it; "
                    f"scan it as pid:{listener.pid} without a pause"
                )
        except BaseException:
            if held >= 0:
                os.close(held)
            raise
        self._place.keep(listener)
        self._pid = listener.pid
        await self.close()
        self._held = held
        await self.status()
        return listener

    async def close(self) -> str:
        """Forgets the socket; crosvm runs on."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1
        return "closed"

    async def execute(
        self, command: str, _arguments: Mapping[str, Any] | None = None, _fds: tuple[int, ...] = ()
    ) -> Any:
        """Nothing can be asked."""
        raise InternalError(f"{self.name}: crosvm answers nothing, not {command[:40]}")

    async def rest(self, seconds: float) -> None:
        """Waits so long, or until the request in progress ended."""
        if self._in_progress is None or self._in_progress.done():
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait({self._in_progress}, timeout=seconds)

    async def prepare(self) -> None:
        """Forgets the last pause."""
        self._proof.forget()
        self._half_stopped = False

    async def status(self) -> str:
        """`PAUSED` where every vCPU waits for a futex, and does not run for some milliseconds."""
        if self._place.has_ended():
            raise self._place.gone()
        machine = platform.machine()
        if (futex := _FUTEX.get(machine)) is None:
            raise SourceError(f"{self.name}: whether it is suspended cannot be seen on a {machine}")
        try:
            for _ in range(LOOKS):
                if await self._waits(futex):
                    return PAUSED
        except OSError as error:
            raise SourceError(
                f"{self.name}: whether it is suspended cannot be seen ({error.strerror}); only "
                f"who may ptrace process {self._pid} may"
            ) from error
        return RUNNING

    async def _waits(self, futex: str) -> bool:
        """Whether every vCPU waits in this system call, at one look."""
        before = None
        for _ in range(SAMPLES):
            calls = system_calls(self._pid, VCPU)
            switches = switches_of(family_threads(self._pid), VCPU)
            if not calls:
                raise SourceError(
                    f"{self.name}: process {self._pid} has no thread of a vCPU: it is ending, "
                    "or is not crosvm"
                )
            moved = before is not None and before != switches
            before = switches
            await asyncio.sleep(SAMPLE_S)
            if moved or any(call != futex for call in calls.values()):
                return False
        return True

    def runs(self, status: str) -> bool:
        """Whether the guest runs."""
        return status == RUNNING

    def is_still(self, status: str) -> bool:
        """Whether the vCPUs are stopped."""
        return status == PAUSED

    async def stop(self) -> bool:
        """Suspends it with its devices; nothing tells whether somebody resumed it before that."""
        self._half_stopped = True
        await self._run("suspend")
        until = clock.now_s() + SUSPENDED_S
        while self._half_stopped and clock.now_s() < until:
            # Older ones answer before the vCPUs have stopped.
            self._half_stopped = await self.status() != PAUSED
        return False

    async def cont(self) -> None:
        """Resumes it."""
        await self._run("resume")
        self._half_stopped = False

    async def step(self, status: str) -> Step:
        """What is to be done about a VM of ours that is in this status."""
        return "cont" if status == PAUSED or self._half_stopped else "leave"

    def seen(self) -> Seen:
        """Nothing: crosvm reports nothing by itself."""
        return Seen()

    async def mark(self) -> None:
        """Takes down what the threads did until now."""
        await self._proof.mark()

    def doubt(self) -> str | None:
        """Why guest RAM may have changed since `mark`, although the VM is suspended; or None."""
        return self._proof.doubt()

    def require_here(self) -> None:
        """Nothing to do: crosvm migrates nothing."""

    async def _run(self, command: str) -> None:
        """Runs crosvm's program, after the one in progress ended.

        Raises:
            Silent: it did not end in time, and is in progress.
            Refused: it failed.
        """
        self._proof.asked()
        if self._held < 0:  # we replace a watchdog, and could not connect yet
            await self.connect()
        deadline = clock.now_s() + COMMAND_S
        if self._in_progress is not None and clock.now_s() - self._since_s > ABANDON_S:
            self._in_progress.cancel()
            await asyncio.wait({self._in_progress})
            self._in_progress = None
        if self._in_progress is not None:
            await self._ended("an earlier request", deadline)
        self._since_s = clock.now_s()
        self._in_progress = asyncio.ensure_future(self._program(command))
        status, text = await self._ended(command, deadline)
        if status:
            shown = printable(" ".join(text.split())[:_CAUSE_CHARS], _CAUSE_CHARS)
            raise Refused(
                f"{self.name}: crosvm {command} failed with status {status}: "
                f"{shown or 'no reason given'}"
            )

    async def _ended(self, command: str, deadline: float) -> tuple[int, str]:
        assert self._in_progress is not None
        out = self._in_progress
        done, _ = await asyncio.wait({out}, timeout=max(0.0, deadline - clock.now_s()))
        if not done:
            raise Silent(f"{self.name}: crosvm {command} did not end in {COMMAND_S:.0f} s")
        self._in_progress = None
        return out.result()

    async def _program(self, command: str) -> tuple[int, str]:
        """The exit status of `crosvm COMMAND --full`, and what it wrote to stderr."""
        said, ours = os.memfd_create("pagecheck-crosvm"), os.getpid()
        try:
            process = await asyncio.create_subprocess_exec(
                "crosvm",
                command,
                "--full",
                f"/proc/self/fd/{self._held}",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                pass_fds=(self._held,),
                preexec_fn=lambda: _die_with(ours),
            )
            try:
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
            return status, os.pread(said, 65536, 0).decode(errors="replace")
        except OSError as error:
            return 127, str(error.strerror)
        finally:
            os.close(said)


def _die_with(parent: int) -> None:
    """Has this process die with its parent: it must not suspend what another watchdog resumed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _opened(path: str) -> int:
    """A descriptor of the socket itself, -1 where there is none."""
    with contextlib.suppress(OSError):
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    return -1
