"""The long-lived coordinator: channels, attached blocks, checks and scans."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pagecheck.child.process import left_behind
from pagecheck.child.signals import signals_held
from pagecheck.coordinator.block import Block, Blocks
from pagecheck.coordinator.channel import Stop
from pagecheck.coordinator.pool import Pool
from pagecheck.coordinator.release import release_all
from pagecheck.coordinator.settings import (
    CHANNELS_MAX,
    Engine,
    Settings,
    check_start,
    closed,
    deadline_ns,
    default_batch_pages,
    default_channels,
    make_settings,
    start_allowance,
)
from pagecheck.errors import UsageError
from pagecheck.logs import Log
from pagecheck.plan import require_rate
from pagecheck.shm.owner import Owner, sweep
from pagecheck.shm.ram import open_source
from pagecheck.shortage import refused

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any, Final

    from numpy.typing import ArrayLike

    from pagecheck.coordinator.block import Source
    from pagecheck.coordinator.check import Checker
    from pagecheck.coordinator.scan import Progress, ScanResult
    from pagecheck.coordinator.select import Selection
    from pagecheck.coordinator.states import ChannelState
    from pagecheck.coordinator.worker import WorkerProcess
    from pagecheck.model import Access, Format, Holes, Kind
    from pagecheck.report.report import Answer, Report
    from pagecheck.report.statistics import ChannelReport
    from pagecheck.shm.bitmaps import BlockBitmaps

log = Log(__name__)

CHECK_DEADLINE_S: Final = 60.0
_NO_MORE: Final[Mapping[str, Any]] = MappingProxyType({})
_NOT_OF_WORKERS: Final = ("self", "start_timeout")  # of the arguments
VISIT_S: Final = 1.0  # to bring idle workers up to date at once

_process = os.getpid()  # a check reads this word; asking the kernel would cost it 2 us


def _note_fork() -> None:
    global _process
    _process = os.getpid()


os.register_at_fork(after_in_child=_note_fork)


class Coordinator:
    """Owns the channels and their workers; everything is gone after `close`.

    Use it as a context manager. Several threads may use one coordinator at once.

    Attributes:
        arguments: what it was made with, by name.
        settings: what its workers are started with; None for engine `none`.
    """

    _first: WorkerProcess | None = None
    _more = _NO_MORE

    def __init__(
        self,
        channels: int | None = None,
        engine: Engine = "auto",
        *,
        wq: Sequence[str] = (),
        fallback: bool = False,
        kernel: str | None = None,
        batch_pages: int | None = None,
        nice: int = 0,
        stall: float = 30.0,
        start_timeout: float = 30.0,
    ) -> None:
        """Starts the workers and waits until they are ready.

        Args:
            channels: workers, 1 to 256; by default one per work queue in `wq`, else as many as
                CPUs may be used, at most 16.
            engine: `cpu`, `dsa`, `none` (every page is normal, nothing is read, no worker is
                started) or `auto`: `dsa` for each channel that finds a usable work queue that
                takes batches, else `cpu`.
            wq: work queues such as /dev/dsa/wq0.0, taken round robin; by default those that are
                found. `model:` and its options name a software device. Not with `cpu`, `none`.
            fallback: with engine `dsa`: a channel that finds no queue decides on the CPU.
            kernel: a CPU kernel by name, see `pagecheck kernels`; by default the best.
            batch_pages: pages per batch of a scan, 1 to 32768; by default 2 MiB of pages.
            nice: added to the workers' nice value, -20 to 19.
            stall: seconds, more than 0; a worker that makes no progress that long is replaced.
            start_timeout: seconds until all workers must be ready.

        Raises:
            UsageError: an argument is out of range, or no kernel has this name.
            EngineError: the kernel cannot run here, or a worker does not start.
            ResourceError: /dev/shm has no room.
        """
        if channels is None:
            channels = min(len(wq), CHANNELS_MAX) or default_channels()
        given: dict[str, Any] = {k: v for k, v in locals().items() if k not in _NOT_OF_WORKERS}
        check_start(**given)
        self.arguments = {**given, "wq": tuple(wq)}
        self._creator = os.getpid()
        self._stop = threading.Event()
        self._pools: list[Pool] = []
        self._pool: Pool | None = None
        self._checker: Checker | None = None
        self.settings: Settings | None = None
        sweep()
        with signals_held():  # a name in /dev/shm is never without its end
            owner = Owner()
            self._blocks = Blocks(owner, self._stop)
            kept = (self._stop, self._pools, self._blocks, owner)
            self._end = weakref.finalize(self, release_all, os.getpid(), *kept)
        if engine == "none":
            return
        made = make_settings(**{k: given[k] for k in given if k != "channels"})
        self.settings = made._replace(**self._more)
        try:
            self._pool = self._start(owner, self.settings, channels, start_timeout)
        except BaseException:
            self.close()
            raise
        log.info("%d channels ready, engine %s, kernel %s", channels, self.engine, self.kernel)

    @classmethod
    def taking_over(cls, first: WorkerProcess | None, **arguments: Any) -> Coordinator:
        """Made with these arguments; the first channel's worker was started ahead, if it was."""
        made = cls.__new__(cls)
        made._first = first
        made.__init__(**arguments)  # type: ignore[misc]  # it has to know the worker before
        return made

    @classmethod
    def with_settings(cls, more: Mapping[str, Any], **arguments: Any) -> Coordinator:
        """Made with these arguments, and with more members of `Settings`."""
        made = cls.__new__(cls)
        made._more = more
        made.__init__(**arguments)  # type: ignore[misc]  # it has to know them before
        return made

    def _start(self, owner: Owner, settings: Settings, channels: int, timeout: float) -> Pool:
        """The channels, every worker ready."""
        with signals_held():
            pool = Pool(owner, settings, channels, self._first)
            self._pools.append(pool)
        import pagecheck.coordinator.runner
        import pagecheck.coordinator.scan  # noqa: F401  # while the workers start

        pool.await_ready(start_allowance(timeout))
        return pool

    @property
    def engine(self) -> str:
        """`dsa` if any channel has a work queue, else `cpu`; or `none`."""
        if self._pool is None:
            return "none"
        picked = {channel.picked.get("engine") for channel in self._pool.channels}
        return "dsa" if "dsa" in picked else "cpu"

    @property
    def is_running(self) -> bool:
        """Whether jobs are taken and every worker lives; asked of the workers, not remembered."""
        channels = self._pool.channels if self._pool else []
        return not self._stop.is_set() and all(channel.is_alive() for channel in channels)

    @property
    def is_lost(self) -> bool:
        """Whether every channel lost its workers for good: then nothing is ever decided again."""
        return self._pool is not None and self._pool.is_lost

    @property
    def may_yet_write(self) -> frozenset[int]:
        """The workers that were killed and have not ended, each of which may be amid a write."""
        killed = {pid for pool in self._pools for each in pool.channels for pid in each.unreaped}
        return left_behind() & killed if killed else frozenset()

    def statistics(self) -> list[ChannelReport]:
        """What each channel works with and has counted since it was started."""
        from pagecheck.coordinator import counting

        return counting.look(self._pool) if self._pool is not None else []

    def states(self) -> list[ChannelState]:
        """What each channel does at this moment."""
        from pagecheck.coordinator.states import states

        return states(self._pool) if self._pool is not None else []

    @property
    def waiting(self) -> int:
        """Threads that wait for a channel at this moment."""
        return self._pool.waiting if self._pool is not None else 0

    @property
    def kernel(self) -> str | None:
        """The CPU kernel that the workers run; None for engine `none`."""
        return self._pool.channels[0].kernel if self._pool else None

    @property
    def channels(self) -> int:
        """Number of channels; 0 for engine `none`."""
        return len(self._pool.channels) if self._pool else 0

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, by channel."""
        return [channel.pid for channel in self._pool.channels] if self._pool else []

    @property
    def segment_names(self) -> list[str]:
        """POSIX names of the channels' segments, by channel."""
        return [channel.segment_name for channel in self._pool.channels] if self._pool else []

    @property
    def workers_replaced(self) -> int:
        """Workers that died or hung and were replaced so far."""
        return sum(channel.replaced for channel in self._pool.channels) if self._pool else 0

    def attach(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        page_size: int = 4096,
        offset: int = 0,
        length: int | None = None,
        holes: Holes = "trust",
        access: Access = "auto",
        format: Format = "auto",
        copy_to: int | None = None,
        copy_offset: int = 0,
        copy_update: bool = False,
    ) -> Block:
        """Makes a RAM block known to every worker.

        Args:
            source: a path, `fd:N` or `shm:/name`; or an open source, which is then owned here.
            page_size: bytes, a power of two of at least 4096.
            offset, length: the part of the file, in bytes, multiples of the page size.
            holes: `read` does not trust the file system's holes.
            access: `map` is fast for pages that are looked at often; `read` for a single pass;
                `auto` maps where a mapping cannot change the file.
            format: of what is opened here: `auto` refuses a file that is certainly no raw RAM (a
                disk image, a core, compressed data), `raw` takes any.
            copy_to, copy_offset, copy_update: as for `Block.copy_to`; None: no page is copied.

        Returns:
            The block; `detach` it when it is no longer needed.

        Raises:
            SourceError: the source cannot be used.
            UsageError: a number is wrong, or 256 blocks are attached.
        """
        if isinstance(source, (str, os.PathLike)):
            self._require_open()
            source = open_source(source, format)
        try:
            block = self._blocks.add(source, page_size, offset, length, holes, access)
        except BaseException:
            source.close()
            raise
        try:
            if copy_to is not None:
                block.copy_to(copy_to, copy_offset, update=copy_update, engine=self.engine)
            if self._pool is not None:
                until = deadline_ns(VISIT_S)
                self._pool.visit_idle(lambda each: each.ensure_attached(block, until), until)
        except BaseException:
            self.detach(block)
            raise
        return block

    def detach(self, block: Block) -> None:
        """Takes the block's bitmaps' name away and closes its source, or leaves that to those who
        still use it; workers forget it before their next batch."""
        if os.getpid() != self._creator or not self._blocks.remove(block):
            return
        if self._pool is not None:
            for channel in self._pool.channels:
                channel.stale = True
            until = deadline_ns(VISIT_S)
            self._pool.visit_idle(lambda each: each.forget_detached(until), until)

    def check(
        self, block: Block, offsets: ArrayLike, *, deadline: float = CHECK_DEADLINE_S
    ) -> Answer:
        """Decides the pages at the given offsets.

        Args:
            offsets: uint64[n] in bytes from the block's start, any order, duplicates allowed;
                each a multiple of the page size and inside the block.
            deadline: seconds from now; pages not answered by then are undecided.

        Returns:
            The answer, in the order of `offsets`. While the guest runs it is a hint.

        Raises:
            UsageError: an offset is misaligned or out of range (the message names its index), or
                the block is detached.
            EngineError: no channel is left.
        """
        if self._creator != _process:
            self._require_open()
        checker = self._checker or self._load_checker()
        return checker.check(block, offsets, deadline)

    def _load_checker(self) -> Checker:
        """Loads what needs numpy, which a scan has no use for.

        Raises:
            ResourceError: that is not possible at this moment.
        """
        try:
            from pagecheck.coordinator.check import Checker
        except OSError as error:
            raise refused("cannot load what checks pages", error) from error
        self._checker = Checker(self._pool, self._stop, self._require_open)
        return self._checker

    def scan(
        self,
        block: Block,
        *,
        kind: Kind = "full",
        max_rate: int | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Decides every page of a block.

        Args:
            kind: in a `full` snapshot a hole is zero, in a `diff` it is unchanged.
            max_rate: bytes per second that may be read.
            deadline: seconds from now; pages not answered by then are undecided.
            progress: called about ten times a second with (bytes done, bytes in all).

        Returns:
            A report with one block. Its bitmaps stay valid as long as it lives; their name in
            /dev/shm goes with the next scan of the block, or when it is detached.

        Raises:
            UsageError: a diff whose holes cannot be known, or an argument out of range.
            SourceError: a page of a diff is part hole, part data.
            EngineError: no channel is left.
        """
        from pagecheck.coordinator.runner import Part, Request, run_scan

        request = Request(block.source.text, kind, max_rate, deadline)
        return run_scan(self, [Part(block)], request, progress=progress)

    def scan_block(
        self,
        block: Block,
        *,
        kind: Kind = "full",
        max_rate: int | None = None,
        deadline: float | None = None,
        progress: Progress | None = None,
        bitmaps: BlockBitmaps | None = None,
        selection: Selection | None = None,
    ) -> ScanResult:
        """As `scan`, for callers that make the report themselves.

        Args:
            bitmaps: where the answers go, all bits 0; by default new ones.
            selection: the pages that are looked at, of a full snapshot and at any rate; by default
                all. Not with engine `none`.
        """
        from pagecheck.coordinator import counting, scan
        from pagecheck.coordinator.scan import ScanOptions

        self._require_open()
        require_rate(max_rate)
        until_ns = deadline_ns(deadline)
        batch_pages = self.arguments["batch_pages"] or default_batch_pages(block.ram.page_size)
        options = ScanOptions(kind, batch_pages, max_rate, until_ns, progress)
        scan.check_kind(block, kind, self.engine)
        block.begin_use()
        try:
            bitmaps = bitmaps or self._blocks.new_bitmaps(block)
            if self._pool is None:
                return scan.scan_none(block, bitmaps)._replace(notes=block.source.notes)
            before = self.statistics()
            stop = Stop(self._stop)
            if selection is None:
                result = scan.scan(self._pool, block, bitmaps, options, stop)
            else:
                from pagecheck.coordinator import select

                chosen = (self._pool, block, bitmaps, selection, options, stop)
                result = select.scan_selected(*chosen)
            workers = counting.since(before, self.statistics())
            queues = counting.queue_notes(self._pool, workers)
            notes = (*block.notes(self.engine), *result.notes, *queues)
            return result._replace(workers=workers, notes=notes)
        finally:
            block.end_use()

    def _require_open(self) -> None:
        if os.getpid() != self._creator:  # rings and workers are the parent's
            raise UsageError("the coordinator is of the process that was forked; make another one")
        if self._stop.is_set():
            raise closed()

    def close(self) -> None:
        """Ends all work and all workers within about a second and removes every name."""
        self._blocks.close()
        self._end()

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
