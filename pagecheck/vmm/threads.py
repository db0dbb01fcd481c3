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

import os
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.vmm.memory import ProcessMemory

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
