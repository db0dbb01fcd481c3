"""What a service has while nobody uses it: what must not grow."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Final, NamedTuple

import psutil

SETTLE_S: Final = 20.0
_LOOK_S: Final = 0.2
_CALM_S: Final = (
    2.0  # a worker that takes the place of another one starts in less, on a full machine
)


class Rest(NamedTuple):
    """A sample, of the service and its workers together.

    Attributes:
        service_kib, workers_kib: resident memory of their own (RssAnon), KiB.
        descriptors, threads, processes: how many there are.
        segments: names of ours in /dev/shm.
        files: in the folder of the run.
    """

    service_kib: int
    workers_kib: int
    descriptors: int
    threads: int
    processes: int
    segments: int
    files: int

    @property
    def counts(self) -> tuple[int, ...]:
        """Everything that must be the same at each rest."""
        return self[2:]


def sample(pid: int, folder: Path) -> Rest:
    """Samples the service at this moment.

    Raises:
        psutil.Error: it is gone.
    """
    service = psutil.Process(pid)
    workers = service.children(recursive=True)
    everyone = [service, *workers]
    return Rest(
        _anonymous_kib(pid),
        sum(_anonymous_kib(worker.pid) for worker in workers),
        sum(each.num_fds() for each in everyone),
        sum(each.num_threads() for each in everyone),
        len(everyone),
        sum(name.startswith("pagecheck-") for name in os.listdir("/dev/shm")),
        sum(1 for _ in folder.rglob("*")),
    )


def at_rest(pid: int, folder: Path, like: Rest | None) -> Rest:
    """Samples the service once it is at rest.

    Args:
        like: an earlier sample: it is waited for the same counts, within bounds. Without one, until
            they have been the same for some seconds.
    """
    began = time.monotonic()
    calm: tuple[int, ...] | None = None
    since = began
    while True:
        now: Rest | None = None
        with contextlib.suppress(psutil.Error, OSError):  # a worker that ends at this moment
            now = sample(pid, folder)
        at = time.monotonic()
        if now is None or now.counts != calm:
            calm, since = now and now.counts, at
        if now is not None:
            as_before = like is not None and now.counts == like.counts
            settled = like is None and at >= since + _CALM_S
            if as_before or settled or at > began + SETTLE_S:
                return now
        time.sleep(_LOOK_S)


def _anonymous_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0  # it has ended, and is a zombie


def growth(rests: list[Rest]) -> list[str]:
    """What grew from the first third of the samples to the last, one line each.

    Memory of the first sample is not counted: then everything is used for the first time.
    """
    found = []
    first = rests[0]
    for name, *values in zip(Rest._fields[2:], *(rest.counts for rest in rests), strict=True):
        if values[-1] != values[0]:
            found.append(f"{name}: {values[0]} at first, {values[-1]} at the end")
    warm = rests[1:] or [first]
    third = max(1, len(warm) // 3)
    for name in ("service_kib", "workers_kib"):
        early = min(getattr(rest, name) for rest in warm[:third])
        late = min(getattr(rest, name) for rest in warm[-third:])
        allowed = max(2048, early // 20)
        if late - early > allowed:
            found.append(f"{name}: {early} early, {late} late; more than {allowed} KiB apart")
    return found
