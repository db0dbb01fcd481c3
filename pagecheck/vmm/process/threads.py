"""Which threads of a process ran between two moments: the proof that a paused VM did not run.

Facts: an API that is only asked does not tell that a VM was continued and stopped again meanwhile;
Firecracker pauses the vCPUs, while its own thread goes on to write what the network sends into
guest RAM. The kernel counts how often each thread went off a CPU (`voluntary_ctxt_switches` and
`nonvoluntary_ctxt_switches`), on every kernel and readable for everybody. A thread that was off the
CPU at both moments and was never switched away in between did not run, and a process none of whose
threads ran has written nothing. Left unhandled: other processes and devices that write the RAM
(vhost-user, VFIO, a disk read with O_DIRECT that was in flight).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import SourceError
from pagecheck.printable import printable
from pagecheck.vmm.process.memory import ProcessMemory

SETTLE_S: Final = 1.0  # until the threads that answered us sleep again
SETTLE_STEP_S: Final = 0.002

_FIELDS: Final = ("Name:", "State:", "voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:")


class Thread(NamedTuple):
    """A thread at one moment.

    Attributes:
        name: as its process named it.
        runs: whether it is on a CPU, or waits for one.
        switches: how often it went off a CPU.
    """

    name: str
    runs: bool
    switches: tuple[str, str]


Threads = dict[int, Thread]


def threads_of(pid: int) -> Threads:
    """The threads of a process, by thread id.

    Raises:
        SourceError: there is no such process, or /proc does not show it.
    """
    process = ProcessMemory(pid)
    found: Threads = {}
    try:
        for number in os.listdir(f"{process.folder}/task"):
            try:
                found[int(number)] = _thread(f"{process.folder}/task/{number}/status")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended just now; it is missing from one of the two moments then
    except (OSError, ValueError) as error:
        raise SourceError(f"process {pid}: its threads cannot be seen: {error}") from error
    finally:
        process.close()
    return found


def _thread(path: str) -> Thread:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = dict(line.split("\t", 1) for line in file if line.startswith(_FIELDS))
    name, state, *switches = (lines[field].strip() for field in _FIELDS)
    return Thread(name, state.startswith("R"), (switches[0], switches[1]))


def family_threads(pid: int) -> Threads:
    """The threads of a process and of all its descendants.

    Raises:
        SourceError: there is no such process, or /proc does not show it.
    """
    if not os.path.exists("/proc/thread-self/children"):
        raise SourceError(f"process {pid}: this kernel does not show its children")
    found = threads_of(pid)
    left = list(found)
    while left:
        try:
            with open(f"/proc/{left[-1]}/task/{left[-1]}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            children = []  # of a thread that ended
        except OSError as error:
            raise SourceError(f"process {pid}: its children cannot be seen: {error}") from error
        left.pop()
        for child in children:
            more = threads_of(child)
            left += more
            found |= more
    return found


def switches_of(threads: Threads, name: str) -> dict[int, tuple[str, str]]:
    """How often the threads whose name begins so went off a CPU, by thread id."""
    return {n: each.switches for n, each in threads.items() if each.name.startswith(name)}


def system_calls(pid: int, name: str) -> dict[int, str]:
    """The number of the system call that each thread is in, whose name begins so, by thread id;
    `running` where it is on a CPU.

    Raises:
        OSError: it may not be seen, or there is no such process.
    """
    found = {}
    for number in os.listdir(f"/proc/{pid}/task"):
        task = f"/proc/{pid}/task/{number}"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _thread(f"{task}/status").name.startswith(name):
                with open(f"{task}/syscall", encoding="ascii") as file:
                    found[int(number)] = file.read().split()[0]
    return found


def running(threads: Threads) -> str | None:
    """The name of a thread that runs at this moment, or None."""
    return next((each.name for each in threads.values() if each.runs), None)


def ran_between(before: Threads, after: Threads) -> str | None:
    """The name of a thread that ran between two moments, or None.

    Args:
        before: the threads at the first moment, of which none may run.
    """
    for number in before.keys() | after.keys():
        was, now = before.get(number), after.get(number)
        if was is None or now is None or now.runs or was.switches != now.switches:
            return next(each.name for each in (now, was) if each is not None)
    return None


class StoppedProof:
    """Whether threads ran since their VM was stopped."""

    def __init__(self, vmm: str, look: Callable[[], Threads]) -> None:
        """Nothing is proved yet.

        Args:
            vmm: whose threads they are, for messages.
            look: gives the threads as they are now, or raises SourceError.
        """
        self._vmm = vmm
        self._look = look
        self._threads: Threads | None = None  # when it was stopped, and nothing was asked since
        self._doubt = ""

    def forget(self) -> None:
        """Begins anew."""
        self._threads, self._doubt = None, ""

    def asked(self) -> None:
        """The VMM is asked for something: who answers runs, so that nothing is proved any more."""
        self._threads = None

    async def mark(self) -> None:
        """Takes down what the threads did until now, once those that answered us sleep."""
        until = clock.now_s() + SETTLE_S
        self._threads, before = None, None
        try:
            while self._threads is None:
                now = self._look()
                busy = running(now)
                if busy is None and now == before:
                    self._threads = now
                elif clock.now_s() > until:
                    self._doubt = self._ran(busy or "some")
                    return
                else:
                    before = now
                    await asyncio.sleep(SETTLE_STEP_S)
        except SourceError as error:
            self._doubt = f"nothing proves that RAM was unchanged ({error})"

    def doubt(self) -> str | None:
        """Why guest RAM may have changed since `mark`, although the VM is paused; or None."""
        if self._threads is None:
            return self._doubt or "nothing proves that RAM was unchanged: the VMM was asked"
        try:
            name = ran_between(self._threads, self._look())
        except SourceError as error:
            return f"whether RAM was unchanged cannot be seen ({error})"
        return None if name is None else self._ran(name)

    def _ran(self, name: str) -> str:
        return (
            f"thread {printable(name, 32)!r} of {self._vmm} ran while the VM was paused: somebody "
            "continued it, or a device may have written to guest RAM"
        )
