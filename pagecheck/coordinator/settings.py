"""The settings of a coordinator: their ranges, and defaults from what this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

from pagecheck import clock
from pagecheck.clock import Allowance
from pagecheck.errors import EngineError, UsageError
from pagecheck.native import _native
from pagecheck.plan import require_seconds

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final, Literal, NamedTuple
else:
    from pagecheck.typed import Literal, NamedTuple

CHANNELS_MAX: Final = 256
CHANNELS_DEFAULT_MAX: Final = 16
BYTES_PER_CHANNEL: Final = 256 << 20
BATCH_BYTES: Final = 2 << 20
BATCH_PAGES_MAX: Final = 32768
RING_PAGES: Final = 16384  # out at once per channel: 64 MiB of 4 KiB pages
NEVER_NS: Final = 1 << 62
DEVICE_NS: Final = 1_000_000_000  # until a device must have answered; less with a short stall
CGROUP: Final = "/sys/fs/cgroup"

Engine = Literal["auto", "dsa", "cpu", "none"]
_Reader = Callable[[str], "float | None"]


class Settings(NamedTuple):
    """What every channel of a coordinator has in common.

    Attributes:
        engine: "auto", "cpu" or "dsa".
        wq: the work queues that the user named, for engine "dsa" or "auto".
        fallback: where engine "dsa" has no queue, the CPU decides.
        slots: slots per ring.
        slot_pages: the most pages of a batch, a multiple of 64.
        stall_ns: a worker that makes no progress this long is hung.
        writer: user and group in whose place it writes to files; None: as itself.
        queue: which of the work queues the first channel takes, round robin; coordinators side by
            side take different ones.
    """

    engine: str
    wq: tuple[str, ...]
    fallback: bool
    kernel: str | None
    slots: int
    slot_pages: int
    nice: int
    stall_ns: int
    writer: tuple[int, int] | None = None
    queue: int = 0

    def message(self, *, replacement: bool) -> dict[str, Any]:
        """The part of them that a worker is sent.

        Args:
            replacement: it takes the place of one that was ready, and may find a dedicated queue
                still in use by the dead: then the CPU decides.
        """
        return {
            "engine": self.engine,
            "wq": list(self.wq),
            "fallback": self.fallback or (self.engine == "dsa" and replacement),
            "kernel": self.kernel,
            "nice": self.nice,
            "device_ns": min(DEVICE_NS, self.stall_ns // 4),
            "spin_ns": 0,
            "writer": self.writer,
            "queue": self.queue,
        }


def usable_cpus() -> int:
    """CPUs that this process may run on, cut to its cgroup's quota and never less than 1."""
    cpus = len(os.sched_getaffinity(0))
    quota = cgroup_quota("/proc/self/cgroup", CGROUP)
    return max(1, min(cpus, math.ceil(quota)) if quota is not None else cpus)


def cgroup_quota(membership: str, root: str) -> float | None:
    """The smallest CPU quota on the way from this process's cgroup to the root, in CPUs.

    Args:
        membership: a file as /proc/self/cgroup.
        root: where cgroups are mounted; version 2 (`cpu.max`) and version 1
            (`cpu/cpu.cfs_quota_us`) are read.

    Returns:
        None when there is no quota.
    """
    try:
        lines = _read(membership).splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            quotas += _quotas_up(root, path, _read_v2)
            quotas += _quotas_up(f"{root}/unified", path, _read_v2)
        elif "cpu" in controllers.split(","):
            for name in ("cpu", "cpu,cpuacct"):
                quotas += _quotas_up(f"{root}/{name}", path, _read_v1)
    return min(quotas, default=None)


def _quotas_up(mount: str, path: str, read: _Reader) -> list[float]:
    """Quotas of a cgroup and its ancestors; in a container the path may not exist below the
    mount, then the mount itself is the container's cgroup."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    found: list[float] = []
    for depth in range(len(parts), -1, -1):
        quota = read("/".join([mount, *parts[:depth]]))
        if quota is not None:
            found.append(quota)
    return found


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _read_v2(folder: str) -> float | None:
    try:
        quota, period = _read(f"{folder}/cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _read_v1(folder: str) -> float | None:
    try:
        quota = int(_read(f"{folder}/cpu.cfs_quota_us"))
        period = int(_read(f"{folder}/cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def default_channels(data_bytes: int | None = None) -> int:
    """The smallest of the usable CPUs, 16, and one per 256 MiB of data where that is known."""
    most = min(usable_cpus(), CHANNELS_DEFAULT_MAX)
    if data_bytes is None:
        return most
    return max(1, min(most, math.ceil(data_bytes / BYTES_PER_CHANNEL)))


def default_batch_pages(page_size: int) -> int:
    """Pages per batch: 2 MiB of them, at least one. Chosen by `tools/bench`, see
    docs/performance.md."""
    return max(1, BATCH_BYTES // page_size)


def ring_slots(batch_pages: int) -> int:
    """Slots per ring, 16 to 64: the coordinator wakes when half of them are answered, and that
    half must last longer than it takes to wake."""
    return max(16, min(64, RING_PAGES // batch_pages))


def make_settings(
    engine: str,
    wq: Sequence[str],
    *,
    fallback: bool,
    kernel: str | None,
    batch_pages: int | None,
    nice: int,
    stall: float,
) -> Settings:
    """The settings of all channels, from arguments of `Coordinator` that were checked."""
    slot_pages = max(batch_pages or 0, default_batch_pages(4096))
    return Settings(
        engine=engine,
        wq=tuple(wq),
        fallback=fallback,
        kernel=kernel,
        slots=ring_slots(batch_pages or default_batch_pages(4096)),
        slot_pages=-(-slot_pages // 64) * 64,
        nice=nice,
        stall_ns=int(min(stall, 1e9) * 1e9),
    )


def check_start(
    channels: int,
    engine: str,
    *,
    wq: Sequence[str],
    fallback: bool,
    kernel: str | None,
    batch_pages: int | None,
    nice: int,
    stall: float,
) -> None:
    """Raises UsageError or EngineError where no worker can be started with these arguments of
    `Coordinator`; everything that can be known without one."""
    check_arguments(channels, engine, batch_pages, nice, stall)
    check_queues(engine, wq, fallback=fallback)
    check_kernel(kernel)


def check_channels(channels: int) -> None:
    """Raises UsageError where there can be no so many."""
    if not 1 <= channels <= CHANNELS_MAX:
        raise UsageError(f"{channels} channels: must be 1 to {CHANNELS_MAX}")


def check_arguments(
    channels: int, engine: str, batch_pages: int | None, nice: int, stall: float
) -> None:
    """Raises UsageError where an argument of `Coordinator` is out of range."""
    check_choice("engine", engine, Engine)
    check_channels(channels)
    if batch_pages is not None and not 1 <= batch_pages <= BATCH_PAGES_MAX:
        raise UsageError(f"batch of {batch_pages} pages: must be 1 to {BATCH_PAGES_MAX}")
    if not -20 <= nice <= 19:
        raise UsageError(f"nice {nice}: must be -20 to 19")
    require_seconds("stall", stall)


def check_queues(engine: str, wq: Sequence[str], *, fallback: bool) -> None:
    """Raises UsageError where work queues are named for an engine that uses none."""
    if isinstance(wq, str | bytes):
        raise UsageError(f"wq {wq!r}: give a list of work queues")
    for each in wq:
        if not isinstance(each, str):
            raise UsageError(f"wq {each!r}: is not a string such as '/dev/dsa/wq0.0'")
    if wq and engine in ("cpu", "none"):
        raise UsageError(f"wq {wq[0]!r}: engine {engine} uses no work queue; use engine dsa")
    if fallback and engine != "dsa":
        raise UsageError(f"fallback: only engine dsa can fall back, not {engine}")


def check_choice(what: str, value: object, choices: Any) -> None:
    """Raises UsageError unless `value` is one of a Literal's values."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise UsageError(f"{what} {value!r}: not one of {known}")


def check_kernel(kernel: str | None) -> None:
    """Raises UsageError where no kernel has this name, EngineError where it cannot run here."""
    if kernel is None:
        return
    known = {name: why for name, why, _untested in _native.kernels()}
    if kernel not in known:
        raise UsageError(f"kernel {kernel!r}: not one of {', '.join(known)}")
    if known[kernel] is not None:
        raise EngineError(f"kernel {kernel} cannot run here: {known[kernel]}")


def closed() -> UsageError:
    """To be raised where a coordinator is used after its end."""
    return UsageError("the coordinator is closed")


def check_deadline(seconds: float | None) -> None:
    """Raises UsageError where a deadline is not more than 0 seconds; None: there is none."""
    if seconds is not None:
        require_seconds("deadline", seconds)


def deadline_ns(seconds: float | None, since_ns: int | None = None) -> int:
    """The absolute CLOCK_MONOTONIC time that many seconds from then; None: never.

    Args:
        since_ns: by default now.

    Raises:
        UsageError: not more than 0.
    """
    check_deadline(seconds)
    if seconds is None:
        return NEVER_NS
    since_ns = clock.now_ns() if since_ns is None else since_ns
    return min(since_ns + int(min(seconds, 1e9) * 1e9), NEVER_NS)


def start_allowance(seconds: float) -> Allowance:
    """How long workers may take to be ready; time in which this process did not run does not count.

    Raises:
        UsageError: not more than 0.
    """
    require_seconds("start timeout", seconds)
    return Allowance(int(min(seconds, 1e9) * 1e9))
