"""The C helper: addresses, lengths, words; no policy, no names, no fallback.

Buffers are anything that offers a contiguous buffer whose address is aligned to 8. Deadlines are
absolute CLOCK_MONOTONIC nanoseconds (`time.monotonic_ns`).
"""

from typing import Any, Final, TypeAlias

from numpy.typing import NDArray
from typing_extensions import Buffer

Memory: TypeAlias = Buffer | NDArray[Any]
CheckTarget: TypeAlias = Any  # what `check_target` returns

SEGMENT_MAGIC: Final[int]
LAYOUT_VERSION: Final[int]
HEADER_BYTES: Final[int]
SLOT_HEAD_BYTES: Final[int]
CONTROL_BYTES: Final[int]
SLOTS_MAX: Final[int]
SLOT_PAGES_MAX: Final[int]
BLOCKS_MAX: Final[int]
LATENCY_FIRST_NS: Final[int]
QUEUE_END_SHIFT: Final[int]
SINK_STATE_BYTES: Final[int]
SINK_ERROR_BITS: Final[int]
SINK_PIECE: Final[int]
TOUCH_FREELY: Final[int]
TRUST_HOLES: Final[int]
ASK_RESIDENT: Final[int]
ABSENT_ZERO: Final[int]
ABSENT_FILE: Final[int]
ABSENT_UNDECIDED: Final[int]
UNREADABLE: Final[int]
PIECES_MAX: Final[int]
PUMP_DONE: Final[int]
PUMP_NEED_MORE: Final[int]
PUMP_TIMEOUT: Final[int]
PUMP_INTERRUPTED: Final[int]
PUMP_BROKEN: Final[int]
PUMP_GONE: Final[int]
SERVE_TIMEOUT: Final[int]
SERVE_ATTENTION: Final[int]
SERVE_QUEUE: Final[int]
SERVE_INTERRUPTED: Final[int]
QUEUE_NONE: Final[int]
QUEUE_UP: Final[int]
QUEUE_DRAINING: Final[int]
QUEUE_CLOSED: Final[int]
QUEUE_LOST: Final[int]
QUEUE_FULL: Final[int]
QUEUE_REFUSED: Final[int]
QUEUE_BROKEN: Final[int]
QUEUE_LATE: Final[int]
QUEUE_DISABLED: Final[int]

class Feed:
    """The coordinator's end of one ring: submits batches, collects and publishes answers.

    One thread at a time may use it; only `raise_attention` may be called beside `pump`.
    """

    def __init__(self, fd: int, control_fd: int = -1, spin_ns: int = 0, /) -> None:
        """Maps the segments.

        Args:
            fd: the channel's segment.
            control_fd: the control segment; -1 for a VMM, which has none: then `progress` stays 0.
            spin_ns: look for an answer this long before every sleep.

        Raises:
            OSError: a segment cannot be mapped.
            ValueError: the segment's header is not one of this layout version.
        """

    def begin_range(
        self,
        block: int,
        batch_pages: int,
        pages: int,
        page_bytes: int,
        zero: Memory,
        normal: Memory,
        skip: Memory,
        /,
    ) -> None:
        """Starts a job whose positions are page indices; answers go to two bitmaps.

        Args:
            block: the id that the worker attached the RAM block under.
            batch_pages: the most pages per batch, at most the segment's slot_pages.
            pages: pages of the block; the bitmaps have at least this many bits.
            page_bytes: the block's page size.
            zero: uint64 words; bits are ORed in atomically.
            normal: the same for pages that were seen not to be zero.
            skip: uint64 words; pages whose bit is set are not asked for. A page's bit does not
                change any more once the page was given to `more`.
        """

    def begin_offsets(
        self, block: int, batch_pages: int, offsets: Memory, zero: Memory, decided: Memory, /
    ) -> None:
        """Starts a job whose positions are indices of `offsets` (uint64[n], checked bytes).

        Args:
            zero: uint8[n], becomes 1 where the page is zero.
            decided: uint8[n], becomes 1 where the page was decided.
        """

    def submit_check(self, target: CheckTarget, offsets: object, /) -> int:
        """Starts a job over a copy of `offsets` and submits what the ring has room for.

        Args:
            offsets: uint64[n], contiguous; anything else is refused by the return value.

        Returns:
            n: before anything but `end` comes `finish_check`. 0: nothing was submitted, because
            they are something else, none, more than the target takes, one is not the offset of a
            page, or another process opened this feed.
        """

    def finish_check(
        self,
        target: CheckTarget,
        zero: Memory,
        decided: Memory,
        partition: Memory,
        deadline: float,
        /,
    ) -> int:
        """Waits for the answers to `submit_check`, and sorts the offsets. The GIL is released.

        It looks for the answers for at most 15 us before it sleeps, as long as that is worth it.

        Args:
            target: the one of `submit_check`; its file's size is read after the last answer.
            zero, decided: uint8[n] or bool[n], overwritten.
            partition: uint64[n], overwritten: offsets that are not zero first.
            deadline: seconds from now; it waits no longer than the target says.

        Returns:
            How many offsets are not zero; every page was decided inside the file, and the job has
            ended. Negative: else; the job goes on with `pump` and `end`, and `partition` is a copy
            of the offsets. It is the CLOCK_MONOTONIC time of the call in ns, negated.

        Raises:
            OSError: no wait is possible.
            ValueError: no check was submitted.
        """

    def more(self, position: int, count: int, /) -> None:
        """Adds pages [position, position + count), those to skip left out; the earlier ones must
        have been submitted."""

    def pump(self, more_follow: bool, deadline_ns: int, /) -> int:
        """Submits and collects until done, until the deadline or, if `more_follow`, until it needs
        more pages. The GIL is released. Returns one of PUMP_*.

        Raises:
            OSError: no wait is possible.
        """

    def end(self) -> tuple[int, int]:
        """Ends the job: what was not answered stays undecided, and late answers are discarded.

        Returns:
            Pages decided, pages undecided.
        """

    def oldest(self) -> tuple[int, int, bool] | None:
        """Position and page count of this job's first unanswered batch, and whether the worker is
        working at it."""

    def skip_oldest(self) -> None:
        """After `rebind`: sets the first batch that waits aside as undecided."""

    def rebind(self, fd: int, control_fd: int, /) -> None:
        """Takes the ring of a new worker; unanswered batches are submitted again.

        Raises:
            OSError, ValueError: as the constructor; the old ring is kept.
        """

    def raise_attention(self) -> None:
        """Tells the worker that a message waits on its socket."""

    def mark_gone(self) -> None:
        """Tells the submitter that the worker is gone, and wakes it; the worker has ended."""

    def progress(self) -> int:
        """The worker's progress word: it rises while the worker does anything."""

    def occupied(self) -> int:
        """Batches that the worker has not answered yet, those of ended jobs included."""

    def counts(self) -> tuple[int, int, int]:
        """Pages decided, pages undecided so far, batches in progress."""

    def close(self) -> None:
        """Unmaps the segments. May be called twice."""

class Walk:
    """Where a file has data and holes, looked up as the walk goes, by SEEK_DATA and SEEK_HOLE.

    One thread at a time may use it.
    """

    def __init__(
        self, fd: int, start: int, page_bytes: int, pages: int, hole: Memory, zero: Memory, /
    ) -> None:
        """Nothing is looked up yet.

        Args:
            fd: stays the caller's; its file offset is moved.
            start: byte offset in the file of page 0.
            page_bytes, pages: size and number of the pages.
            hole, zero: uint64 words of a bit per page; those of pages in holes are set in both,
                atomically towards other threads.

        Raises:
            ValueError: a bitmap is too small, or the pages are outside of any file.
        """

    def next(self, most: int, /) -> tuple[int, int, int] | None:
        """The next pages with data. The GIL is released.

        Args:
            most: how many, where they have holes between them.

        Returns:
            (first page, span, pages with data among them): either a single run of pages, however
            long, or several. It may be empty; it takes some milliseconds at most, unless a single
            lookup takes longer. None: there are no more, and every page that was in none is a hole.
            Where a lookup fails, all pages from there on have data.
        """

class ProcessWalk:
    """Where private memory of another process has pages, looked up in its page tables as the walk
    goes: pages that no page table has, in pieces where that means zero, are the holes.

    One thread at a time may use it.
    """

    def __init__(
        self,
        pagemap_fd: int,
        base: int,
        page_bytes: int,
        pages: int,
        pieces: Memory,
        hole: Memory,
        zero: Memory,
        /,
    ) -> None:
        """Nothing is looked up yet.

        Args:
            pagemap_fd: a /proc/PID/pagemap; stays the caller's.
            base: address of page 0 in that process.
            page_bytes, pages: size and number of the pages.
            pieces: as `Worker.attach_process` takes them.
            hole, zero: as `Walk` has them.

        Raises:
            ValueError: a number is out of range, the pieces are not the pages in order, or a bitmap
                is too small.
        """

    def next(self, most: int, /) -> tuple[int, int, int] | None:
        """The next pages to look at, as `Walk.next` does; no run of them is longer than
        256 MiB. Where a look fails, all pages from there on have data. The GIL is released."""

class Portal:
    """One work queue by hand, for probing: the caller's own descriptors go in.

    One thread uses it; `close` may run in another one, as the last call.
    """

    def __init__(self, memory: Memory, /) -> None:
        """Holds the memory in which descriptors, records and pages lie until `close` returned.

        Raises:
            ValueError: it is not aligned to 64 bytes.
        """

    @property
    def address(self) -> int:
        """Address of the memory's first byte."""

    def open_queue(self, fd: int, submit: str, /) -> None:
        """Opens a device node's queue, duplicating `fd`; `submit` as for `Worker.open_queue`.

        Raises:
            OSError: the portal cannot be mapped (EPERM: CAP_SYS_RAWIO is wanted; ENOSYS: the CPU
                lacks the instruction).
        """

    def open_model(
        self,
        mode: str,
        size: int,
        threshold: int,
        batch: int,
        transfer: int,
        version: int,
        seed: int,
        faults: str,
        delay_ns: int,
        engines: int = 1,
        prs: bool = False,
        ats: bool = True,
        /,
    ) -> None:
        """The same on a software device; see `Worker.open_model`."""

    def submit(self, offset: int, count: int, /) -> int:
        """Submits `count` descriptors of 64 bytes that begin at `offset` in the memory.

        Returns:
            How many were taken; 0: the queue is full.

        Raises:
            OSError: the kernel refused the first one.
            ValueError: it is not open, or they lie outside the memory.
        """

    def close(self) -> None:
        """Waits, without a limit, until the device holds nothing of ours."""

class Worker:
    """The worker's end of one ring and the RAM blocks attached to it."""

    def __init__(self, fd: int, control_fd: int, kernel: str, spin_ns: int = 0, /) -> None:
        """Maps the segments and installs the SIGBUS handler.

        Args:
            spin_ns: look for work this long before every sleep.

        Raises:
            OSError: something cannot be mapped.
            ValueError: the segment is not one of this layout, or the kernel cannot run here.
        """

    def attach(
        self,
        block: int,
        fd: int,
        start: int,
        size: int,
        page_bytes: int,
        flags: int,
        dense_bytes: int,
        map: bool,
        /,
    ) -> None:
        """Makes `size` bytes of the file from `start` known as a block; the fd is duplicated.

        Args:
            flags: TOUCH_FREELY, TRUST_HOLES, ASK_RESIDENT ored together.
            dense_bytes: the file's size when it was seen to have no hole, or 0; as long as it has
                this size and as many blocks, its mapping is touched without further questions.
            map: map it read-only; else it is only read.

        Raises:
            OSError: the mapping or the duplicate failed.
            ValueError: a number is out of range, or the id is taken.
        """

    def attach_process(
        self,
        block: int,
        pagemap_fd: int,
        memory_fd: int,
        file_fd: int,
        pid: int,
        base: int,
        size: int,
        page_bytes: int,
        read_swapped: bool,
        pieces: Memory,
        /,
    ) -> None:
        """Makes `size` bytes of another process's private memory known as a block. The process is
        never stopped, and pages are read only if they are in memory.

        Args:
            pagemap_fd: its /proc/PID/pagemap, which stays with the address space that it was opened
                on. Duplicated.
            memory_fd: its /proc/PID/mem, opened on the same address space: what pages are read
                through that it shares with other processes, so that they stay shared. Duplicated.
            file_fd: the file that ABSENT_FILE means, duplicated; or -1.
            pid: the process, for process_vm_readv.
            base: address of the block's byte 0 in it.
            read_swapped: also read pages that are swapped out, which brings them in; else they
                stay undecided.
            pieces: native uint64 quadruples (begin, end, absent, file_offset), 1 to PIECES_MAX:
                bytes of the block, whole pages of 4096, in order, without gaps. `absent` is what a
                page means that no page table has: ABSENT_ZERO, ABSENT_FILE (`file_offset` is that
                of `begin`), or ABSENT_UNDECIDED; or UNREADABLE: nothing of the piece is decided.

        Raises:
            OSError: a duplicate failed.
            ValueError: a number is out of range, the pieces are not the block in order, or the id
                is taken.

        Source: Documentation/admin-guide/mm/pagemap.rst, process_vm_readv(2).
        """

    def copy_to(
        self, block: int, fd: int, state_fd: int, start: int, update: bool, holes: bool, /
    ) -> None:
        """Copies the pages of an attached block to a file from now on, as they are decided: a page
        is answered as normal once its bytes are there.

        Args:
            fd: of the file, open for writing; with `update` for reading too. Duplicated.
            state_fd: of SINK_STATE_BYTES that are shared by the block's workers and their
                coordinator: `shm.layout.SINK`. Mapped.
            start: where the block's first byte goes, a multiple of 4096.
            update: the file has content: a page is written only where it differs, and one that is
                zero is answered so once its place is.
            holes: with `update`: holes in the file are proof of zero; its position changes.

        Raises:
            OSError: the duplicate or the mapping failed.
            ValueError: the block is unknown or has a sink, or the start is out of range.
        """

    def detach(self, block: int, /) -> None:
        """Unmaps and closes the block, after a queue that drains has drained; an unknown id is
        ignored."""

    def open_queue(
        self,
        fd: int,
        submit: str,
        size: int,
        batch_max: int,
        transfer_max: int,
        deadline_ns: int,
        state_fd: int = -1,
        /,
    ) -> None:
        """Submits pages that may be zero to a DSA work queue from now on.

        Args:
            fd: the queue's device node, open for reading and writing; it is duplicated.
            submit: `enqcmd`, `movdir64b` or `write`.
            size: descriptors in the queue at most.
            batch_max: members of a batch descriptor; less than 2: no batches.
            transfer_max: bytes of a descriptor.
            deadline_ns: nanoseconds from a submission to its last record.
            state_fd: the queue's attribute `state` in sysfs, open for reading; it is duplicated.
                -1: a full queue and a disabled one look alike.

        Raises:
            OSError: the portal cannot be mapped, or no memory.
        """

    def open_model(
        self,
        mode: str,
        size: int,
        threshold: int,
        batch: int,
        transfer: int,
        version: int,
        seed: int,
        faults: str,
        delay_ns: int,
        engines: int,
        prs: bool,
        ats: bool,
        deadline_ns: int,
        /,
    ) -> None:
        """As `open_queue`, on a software device of its own; see native/model/dsa_model.h.

        Raises:
            ValueError: the device cannot be as asked; the text says why.
            OSError: no memory.
        """

    def close_queue(self) -> None:
        """Abandons the queue; it drains in a thread of its own."""

    def queue_state(self) -> tuple[int, int, int]:
        """QUEUE_NONE, QUEUE_UP or QUEUE_DRAINING; why the last queue ended (QUEUE_CLOSED, _LOST,
        _REFUSED, _BROKEN, _LATE, _DISABLED; whether it was late is known once it has drained); and
        the errno of QUEUE_REFUSED."""

    def queue_failure(self) -> tuple[bytes, bytes] | None:
        """The first descriptor (64 bytes) of any queue of this worker that came back with a status
        that is neither an answer nor a page fault, or never, and its record (32 bytes)."""

    def serve(self, deadline_ns: int, /) -> int:
        """Answers batches until a message, the end of a queue, a signal or the deadline; every
        batch that was begun is answered then. Returns one of SERVE_*."""

    def close(self) -> None:
        """Releases the ring and every block, after at most 2 s for a queue to drain; what the
        device may still hold stays mapped. May be called twice."""

def layout() -> dict[str, dict[str, tuple[int, int]]]:
    """Offset and size in bytes of every shared word, by its part (`header`, `slot`, `control`,
    `stats`, `failure`) and name."""

def segment_bytes(slots: int, slot_pages: int, /) -> int:
    """Size in bytes of a channel segment."""

def segment_format(fd: int, slots: int, slot_pages: int, generation: int, /) -> None:
    """Writes the constant words of a new, zeroed segment.

    Raises:
        ValueError: a count is out of range (slot_pages is a multiple of 64).
    """

def check_target(
    block: int,
    page_bytes: int,
    block_bytes: int,
    batch_pages: int,
    pages_max: int,
    fd: int,
    file_end: int,
    slice_ns: int,
    /,
) -> CheckTarget:
    """What checks of a block have in common.

    Args:
        block: the id that the worker attached it under.
        batch_pages: the most pages per batch.
        pages_max: the most pages of a check.
        fd: its file; open while a check runs.
        file_end: byte offset in the file where the block ends.
        slice_ns: the longest wait for answers.
    """

def swapped_pages(
    pagemap_fd: int, base: int, page_bytes: int, pages: int, zero: Memory, normal: Memory, /
) -> int:
    """How many pages that have a bit in neither bitmap (uint64 words) are swapped out now, all of
    them or a part of each. The GIL is released.

    Args:
        pagemap_fd: a /proc/PID/pagemap.
        base: address of page 0 in that process.

    Raises:
        ValueError: a number is out of range, or a bitmap is too small.
    """

def kernels() -> list[tuple[str, str | None, str | None]]:
    """Every kernel of this architecture, best first: name, why this CPU cannot run it, and why no
    test machine has run it."""

def kernel_auto() -> str:
    """Name of the best kernel that this CPU runs."""

def kernel_self_check(name: str, /) -> bool:
    """Tests the kernel on every byte position of a page, in a few milliseconds.

    Raises:
        ValueError: the kernel is unknown or cannot run here.
    """

def kernel_zero_pages(
    name: str, memory: Memory, page_bytes: int, offsets: Memory, out: Memory, /
) -> None:
    """Checks pages of `memory` at `offsets` (uint64[n] bytes) and writes bit i of `out` (uint64
    words) for page i. For tests and benchmarks.

    Raises:
        ValueError: the kernel cannot run here, or a page is outside the memory.
    """

def numa_node() -> int:
    """NUMA node of the CPU that runs this thread now; -1 where the kernel does not tell."""

def cpu_why_not(name: str, /) -> str | None:
    """Why this CPU cannot execute "enqcmd", "movdir64b" or "umwait"; None where it can.

    Raises:
        ValueError: the instruction is none of these.

    Source: CPUID leaf 7, ECX bits 29, 28 and 5.
    """

def file_system_magic(fd: int, /) -> int:
    """f_type of the file's file system. Source: statfs(2)."""

def bits_set(words: Memory, first: int, count: int, /) -> None:
    """Sets bits, atomically towards other threads."""

def bits_clear(words: Memory, first: int, count: int, /) -> None:
    """Clears bits; no other thread may write the words meanwhile."""

def bits_count(words: Memory, bits: int, /) -> int:
    """Number of ones among the first `bits` bits."""

def bits_run(words: Memory, bits: int, start: int, /) -> tuple[bool, int]:
    """Value of bit `start` and the index where a different value begins (or `bits`)."""

def offsets_check(offsets: Memory, page_bytes: int, block_bytes: int, /) -> int:
    """Index of the first offset (uint64) that is misaligned or outside the block, or -1."""

def offsets_partition(offsets: Memory, zero: Memory, out: Memory, /) -> int:
    """Writes the offsets with zero[i] == 0 first, then the others, both in order. Returns how
    many come first."""

def punch_zero(
    fd: int, start: int, end: int, unit: int, kernel: str, leased: bool, seek: bool, mapped: bool, /
) -> tuple[int, int]:
    """Looks at the units of a file in [start, end), and makes holes of those that are zero. Without
    a lease at most 2 MiB, or one unit, lie between the look at a byte and its hole: the caller
    keeps writers away.

    Args:
        fd: open for reading and writing.
        start, end: bytes, multiples of `unit`.
        unit: bytes of the smallest hole; a power of two, at least 4096.
        kernel: a CPU kernel, which its self-test found to be right.
        leased: nothing is punched unless there is a write lease on `fd` (F_SETLEASE in fcntl(2)).
        seek: holes, as SEEK_DATA tells them, are left alone; moves the file offset.
        mapped: the range has no hole and is mapped where that works, not read; for leased files
            only, since one that is truncated meanwhile ends the process.

    Returns:
        The byte before which everything was decided (less than `end` where the lease is lost, or
        the file ends), and how many bytes were found to be zero and are holes now.

    Raises:
        ValueError: an argument is out of range.
        OSError: a read or a hole failed; what was punched before stays.

    Source: fallocate(2).
    """

def watch_open(fd: int, /) -> int:
    """A descriptor that can be read, without waiting, once somebody wrote to the file behind `fd`
    or closed it after having had it open for writing, a mapping included; the caller closes it,
    which may take 20 ms.

    Raises:
        OSError: the file must not be read by this user, or there are too many watches.

    Source: inotify(7).
    """

def watch_ends_open() -> int:
    """A descriptor for `watch_ends_add`, which the caller closes.

    Raises:
        OSError: there are too many.
    """

def watch_ends_add(watch: int, fd: int, /) -> int:
    """Watches the nameless file behind `fd` until nobody has it any more.

    Args:
        watch: what `watch_ends_open` returned.

    Returns:
        The watch's number, which /proc/self/fdinfo lists for as long as the file is there.

    Raises:
        OSError: there are too many watches.

    Source: inotify(7), IN_DELETE_SELF.
    """
