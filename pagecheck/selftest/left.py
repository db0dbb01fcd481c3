"""What a world may not leave behind: names in /dev/shm, processes, threads and descriptors.

Other coordinators may use /dev/shm at the same time, so only names of the world's own coordinator
are looked for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from typing import TYPE_CHECKING, Final

import psutil

from pagecheck import clock
from pagecheck.selftest.wrong import Wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.coordinator.coordinator import Coordinator

SHM: Final = "/dev/shm"
END_S: Final = 5.0  # a kernel may take some time to end a process, or to close a watch
_STEP_S: Final = 0.02


class Names:
    """The coordinators whose names are to be gone at the end."""

    def __init__(self) -> None:
        self._prefixes: set[str] = set()

    def of(self, coordinator: Coordinator) -> None:
        """Its names are looked for."""
        for name in coordinator.segment_names:
            # pagecheck-UID-TOKEN-WHAT; see shm/owner.py
            self._prefixes.add("-".join(name.strip("/").split("-")[:3]))

    def there(self) -> list[str]:
        """Those that are there now."""
        return [n for n in os.listdir(SHM) if any(each in n for each in self._prefixes)]


@contextlib.contextmanager
def nothing_left() -> Iterator[Names]:
    """Raises Wrong if what runs inside leaves something, once it had `END_S` to go."""
    names = Names()
    gc.collect()
    before = _now(names)
    yield names
    until = clock.now_s() + END_S
    while left := _more(before, _now(names)):
        if clock.now_s() > until:
            raise Wrong(f"left behind: {left}")
        gc.collect()
        clock.sleep_s(_STEP_S)


def _now(names: Names) -> dict[str, set[str]]:
    return {
        "names in /dev/shm": set(names.there()),
        "processes": {str(child.pid) for child in psutil.Process().children(recursive=True)},
        "threads": {thread.name for thread in threading.enumerate()},
        "descriptors": _descriptors(),
    }


def _descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.add(f"{number}: {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def _more(before: dict[str, set[str]], now: dict[str, set[str]]) -> str:
    """What is there now that was not there before, as text."""
    more = {what: sorted(now[what] - before[what]) for what in now}
    return "; ".join(f"{what}: {', '.join(there)}" for what, there in more.items() if there)
