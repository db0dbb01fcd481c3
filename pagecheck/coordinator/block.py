"""RAM blocks that are attached to a coordinator."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pagecheck.child.watch import SLICE_NS
from pagecheck.coordinator.settings import check_choice, closed
from pagecheck.errors import InternalError, UsageError
from pagecheck.model import Access, Holes, RamBlock
from pagecheck.native import _native
from pagecheck.plan import make_block
from pagecheck.shm.ram import RamSource
from pagecheck.shm.rest import Rest

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.coordinator.sink import Sink
    from pagecheck.shm.bitmaps import BlockBitmaps
    from pagecheck.shm.owner import Owner
    from pagecheck.shm.process_ram import ProcessRam, Running

    Source = RamSource | ProcessRam

CHECK_PAGES: Final = 128  # pages per batch of a check: one multifd packet
CHECK_PAGES_MAX: Final = 4 * CHECK_PAGES  # of a check on one channel, or of a thread's share


class Block:
    """One RAM block: its source, and how workers may look at it.

    Attributes:
        id: what requests in the rings call it.
        ram: name, size, page size and start in the file.
        source: the open file.
        detached: nobody may begin to use it any more.
        map: workers map it; else they read it.
        holes: whether the file system's holes may be trusted, as the user said.
        file_end: byte offset in the file where it ends.
        target: the same for the C helper, as `Feed.submit_check` takes it.
        sink: where its pages are copied to as they are decided, or None.
    """

    def __init__(
        self, block_id: int, source: Source, ram: RamBlock, holes: Holes, access: Access
    ) -> None:
        """Decides how the block is looked at.

        Args:
            access: `map` or `read`; `auto` maps where that is safe.

        Raises:
            UsageError: mapping was asked for where it is not safe.
        """
        check_choice("holes", holes, Holes)
        check_choice("access", access, Access)
        can_map = source.can_map(ram.start, ram.size)
        if access == "map" and not can_map:
            raise UsageError(f"{source.text}: {source.why_not_mapped}; use access='read'")
        self.id = block_id
        self.detached = False
        self.sink: Sink | None = None
        self._uses: list[None] = []  # one entry each
        self._lock = threading.Lock()
        self.ram = ram
        self.source = source
        self.holes = holes
        self.trust_holes = holes == "trust" and source.holes_are_proof
        self.map = can_map and access != "read"
        self.file_end = ram.start + ram.size
        self._attachment = source.attachment(
            ram.start, trust_holes=self.trust_holes, mapped=self.map
        )
        self.target = self._target(CHECK_PAGES_MAX)

    def _target(self, most: int) -> object:
        """See `target`.

        Args:
            most: pages that a check may have to be submitted at once.
        """
        return _native.check_target(
            self.id,
            self.ram.page_size,
            self.ram.size,
            CHECK_PAGES,
            most,
            self.source.fd,  # whose size is asked for; of a process's pagemap it is 0: see verify
            self.file_end,
            SLICE_NS,
        )

    @property
    def file(self) -> RamSource:
        """The source, of a block that lies in a file."""
        if isinstance(self.source, RamSource):
            return self.source
        raise InternalError(f"{self.source.text}: is not a file")

    def copy_to(self, fd: int, offset: int, *, update: bool, engine: str) -> None:
        """Has scans write each normal page to a file while they decide it; `Coordinator.attach`
        calls it, before any worker knows the block.

        A page is answered as normal once its bytes are there; where they cannot be written it is
        undecided, and `sink` says why. Zero pages are not written: the file is new, or has holes.
        So without `update` there is one scan only. Such a block's pages are not checked one by one.

        Args:
            fd: of a regular file, open for reading and writing; duplicated.
            offset: where in it the block's first byte goes, a multiple of 4096.
            update: the file has content: a page is written only where it differs, a zero page as
                zeros. Pages in holes of the source are not looked at, and so not compared.
            engine: what decides; not `none`, which reads no page.

        Raises:
            UsageError: the pages cannot be copied there.
            ResourceError: there is no descriptor or memory left.
        """
        if engine == "none":
            raise UsageError(f"{self.source.text}: engine none reads, and so copies, no page")
        from pagecheck.coordinator.sink import Sink

        try:
            self.sink = Sink(fd, offset, self.ram, update=update)
        except OSError as error:
            from pagecheck.shortage import refused

            raise refused(f"cannot copy to descriptor {fd}", error) from error
        if self.source.is_file:
            self.sink.require_other_file(self.source.fd)
        self.target = self._target(0)

    def require_checkable(self) -> None:
        """Raises UsageError where a check would write: a page that is checked may be written by
        another check at the same time, and nobody looks at the errors."""
        if self.sink is not None:
            raise UsageError(
                f"block {self.ram.name}: its pages are copied to {self.sink.text}; scan it, or "
                "attach it without copy_to to check pages"
            )

    def watch(self) -> Rest | Running:
        """Watches from now on whether it is at rest."""
        return Rest(self.source) if isinstance(self.source, RamSource) else self.source.watch()

    def attach_message(self) -> dict[str, object]:
        """What a worker needs to know beside the descriptors."""
        return {
            "block": self.id,
            "size": self.ram.size,
            "page_size": self.ram.page_size,
            **self._attachment,
        }

    def notes(self, engine: str) -> tuple[str, ...]:
        """What is known of the source before a scan by that engine."""
        if engine != "dsa" or self.source.is_file:
            return self.source.notes
        copied = "its pages are copied here, and decided by the CPU, not by the device"
        return (*self.source.notes, f"{self.source.text}: {copied}")

    def verify(self) -> str | None:
        """The note on answers of which none can be believed, since the memory was exchanged under
        them: every page is undecided then. None: all is well."""
        why = self.source.verify()
        return None if why is None else f"{self.source.text}: {why}: every page is undecided"

    def is_dense(self) -> bool:
        """Whether the file has no hole, as far as is known without a walk: then a walk
        would only cost time, and a hole that comes is read as the zeros it is."""
        return self.source.looks_dense

    def pages_inside(self, file_size: int) -> int:
        """Whole pages of the block that lie inside a file of that size."""
        inside = min(max(file_size - self.ram.start, 0), self.ram.size)
        return inside // self.ram.page_size

    def past_end(self, file_size: int) -> str:
        """The note on pages that do not lie inside a file of that size: bytes past its end look
        like zeros, so these pages are undecided."""
        offset = self.pages_inside(file_size) * self.ram.page_size
        return (
            f"{self.source.text}: was truncated to {file_size:#x} bytes: pages of block "
            f"{self.ram.name} from offset {offset:#x} are undecided"
        )

    def require_attached(self) -> None:
        """Raises UsageError after the block was detached."""
        if self.detached:
            raise UsageError(f"block {self.ram.name}: is detached")

    def begin_use(self) -> None:
        """Keeps the source open until `end_use`.

        Raises:
            UsageError: the block is detached.
        """
        # No lock, see `Pool`: each side changes its word first and then looks at the other's.
        self._uses.append(None)
        if self.detached:
            self.end_use()
            self.require_attached()

    def end_use(self) -> None:
        """The counterpart of `begin_use`; the last user of a detached block closes its source."""
        self._uses.pop()
        if self.detached and not self._uses:
            self._close_source()

    def detach(self) -> None:
        """No new use from now on; the source is closed when nobody uses it any more."""
        self.detached = True
        if not self._uses:
            self._close_source()

    def _close_source(self) -> None:
        with self._lock:
            self.source.close()
            if self.sink is not None:
                self.sink.close()


class Blocks:
    """The blocks that are attached, and the bitmaps of each one's last scan."""

    def __init__(self, owner: Owner, stop: threading.Event) -> None:
        """There are none yet.

        Args:
            owner: of the bitmaps' names.
            stop: set at the end; from then on nothing is added.
        """
        self._owner = owner
        self._stop = stop
        self._lock = threading.Lock()
        self._blocks: dict[int, Block] = {}
        self._bitmaps: dict[int, BlockBitmaps] = {}
        self._scans = 0

    def add(
        self,
        source: Source,
        page_size: int,
        offset: int,
        length: int | None,
        holes: Holes,
        access: Access,
    ) -> Block:
        """Makes a block of a source; `plan.make_block` says what it raises.

        Raises:
            UsageError: there are too many, or the coordinator is closed.
        """
        with self._lock:
            if self._stop.is_set():
                raise closed()
            if not source.is_file and (offset or length not in (None, source.size)):
                raise UsageError(f"{source.text}: is attached whole, or not at all")
            free = set(range(_native.BLOCKS_MAX)) - self._blocks.keys()
            if not free:
                raise UsageError(f"{source.text}: {_native.BLOCKS_MAX} blocks are attached")
            ram = make_block(source.name, source.size, page_size, offset, length)
            block = Block(min(free), source, ram, holes, access)
            self._blocks[block.id] = block
        return block

    def remove(self, block: Block) -> bool:
        """Detaches a block and takes its bitmaps' name away.

        Returns:
            Whether it was one of these.
        """
        with self._lock:
            if self._blocks.get(block.id) is not block:
                return False
            del self._blocks[block.id]
            bitmaps = self._bitmaps.pop(block.id, None)
        if bitmaps is not None:
            bitmaps.remove()
        block.detach()
        return True

    def new_bitmaps(self, block: Block) -> BlockBitmaps:
        """Bitmaps for a scan of the block, all bits 0; the last scan's lose their name.

        Raises:
            UsageError: the block is detached, or the coordinator is closed.
            ResourceError: /dev/shm has no room.
        """
        with self._lock:
            if self._stop.is_set():
                raise closed()
            block.require_attached()
            self._scans += 1
            what = f"b{block.id}s{self._scans}-bitmaps"
            from pagecheck.shm.bitmaps import BlockBitmaps, bitmap_bytes
            from pagecheck.shm.segments import Segment

            segment = Segment(self._owner.name(what), bitmap_bytes(block.ram.pages))
            bitmaps = BlockBitmaps(segment, block.ram.pages)
            segment.close()
            last = self._bitmaps.pop(block.id, None)
            self._bitmaps[block.id] = bitmaps
        if last is not None:
            last.remove()
        return bitmaps

    def close(self) -> None:
        """Sets `stop`; what is being added at this moment is finished first."""
        with self._lock:
            self._stop.set()

    def releases(self) -> list[Callable[[], None]]:
        """What is to be called at the end, in this order, whatever fails on the way."""
        names = [each.remove for each in list(self._bitmaps.values())]
        return [*names, *(block.detach for block in list(self._blocks.values()))]
