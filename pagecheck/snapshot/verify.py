"""`pagecheck verify`: whether every byte of a snapshot is as its manifest says.

Danger: a snapshot with a byte changed, a file cut, or files of another snapshot starts a VM that
goes on with wrong memory, and nobody notices. Decision: the names, kinds and sizes of all files
come first, then the small files, which say what the RAM must be, then the RAM. Of a block all that
is damaged is named.
"""

from __future__ import annotations

import os
import threading
from itertools import islice

from pagecheck import clock
from pagecheck.errors import SnapshotError
from pagecheck.native import _native
from pagecheck.printable import printable
from pagecheck.shortage import is_limit, refused
from pagecheck.snapshot import manifest
from pagecheck.snapshot.checksums import ram_digests
from pagecheck.snapshot.directory import MARKER
from pagecheck.snapshot.entries import check_entry, read_entry, require_memory
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.ram_files import open_ram
from pagecheck.snapshot.values import CHUNK_BYTES, DIGEST_BYTES, MANIFEST

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, Final, NamedTuple

    from pagecheck.snapshot.checksums import Look, Progress
    from pagecheck.snapshot.values import FileEntry, Snapshot, SnapshotBlock

    Also = Callable[[Snapshot, list[bytes]], list[Look | None]]
else:
    from pagecheck.typed import NamedTuple

_RANGES_SHOWN: Final = 3
_WRONG_MAX: Final = 1 << 16  # pages that are remembered of those that are wrong


class VerifyReport(NamedTuple):
    """What was verified.

    Attributes:
        snapshot: the manifest's values.
        files: number of files, the manifest too.
        bytes_checked: their bytes, holes too.
        seconds: how long it took.
    """

    snapshot: Snapshot
    files: int
    bytes_checked: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The document of `pagecheck verify --json`."""
        return {
            "version": 1,
            "made_by": self.snapshot.made_by,
            "created": self.snapshot.created,
            "blocks": [block.name for block in self.snapshot.blocks],
            "files": self.files,
            "bytes_checked": self.bytes_checked,
            "seconds": self.seconds,
        }


def verify(
    directory: str | os.PathLike[str],
    *,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """Checks every byte of a snapshot against its manifest, and the bitmaps against the RAM.

    Args:
        max_rate: bytes of RAM per second that may be read.
        progress: called with (bytes done, bytes in total) now and then.

    Raises:
        UsageError: the rate is not more than 0.
        SnapshotError: it is not whole; the text names the file, and the block and its pages.
        ResourceError: there is a shortage of threads, descriptors or memory.
    """
    with Folder(directory) as folder:
        return verify_in(folder, max_rate=max_rate, progress=progress)


def verify_in(
    folder: Folder,
    *,
    threads: int | None = None,
    also: Also | None = None,
    max_rate: int | None = None,
    progress: Progress | None = None,
) -> VerifyReport:
    """As `verify`, of an open directory; the files that are opened in it afterwards are those that
    were verified, as long as nobody replaces them.

    Args:
        threads: at most; None: one per CPU.
        also: gets the manifest's values and each block's bitmap of zero pages, before RAM is read,
            and returns for each block what is called with its chunks, as of `ram_digests`. Whether
            their content is as it was saved is known only at the end.
    """
    started = clock.now_s()
    pace = Pace(max_rate)
    snapshot = manifest.read_in(folder)
    files = require_files(folder, snapshot)
    require_memory(folder, snapshot)
    _Work(folder, snapshot, progress, pace, threads).check(also)
    return VerifyReport(snapshot, len(files), sum(files.values()), clock.now_s() - started)


def require_files(folder: Folder, snapshot: Snapshot) -> dict[str, int]:
    """Every file is there, is a regular one and has its size, and there is no other.

    Returns:
        The size of each by name, the manifest's too.

    Raises:
        SnapshotError: it is not so.
    """
    files = {MANIFEST: os.stat(MANIFEST, dir_fd=folder.fd).st_size, **snapshot.files()}
    there = set(folder.names())
    for name, size in files.items():
        if name not in there:
            raise SnapshotError(f"{folder.path_of(name)}: is missing")
        fd = folder.open(name)
        try:
            has = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if has != size:
            raise SnapshotError(
                f"{folder.path_of(name)}: has {has} bytes and must have {size}: it was cut, or "
                "grew, or is of another snapshot"
            )
    others = there - files.keys() - {MARKER}
    if others:
        raise SnapshotError(
            f"{folder.path_of(min(others))}: does not belong to the snapshot; move it away"
        )
    return files


class _Work:
    """The bytes of all files, with how far it is."""

    def __init__(
        self,
        folder: Folder,
        snapshot: Snapshot,
        progress: Progress | None,
        pace: Pace,
        threads: int | None,
    ) -> None:
        self._threads = threads
        self._folder = folder
        self._snapshot = snapshot
        self._progress = progress
        self._pace = pace
        sizes = [b.bitmap.size + b.chunks.size + b.size for b in snapshot.blocks]
        self._total = sum(sizes) + (snapshot.state.size if snapshot.state is not None else 0)
        self._done = 0

    def check(self, also: Also | None) -> None:
        """Raises SnapshotError for the first file that is not as it must be."""
        blocks = self._snapshot.blocks
        if self._snapshot.state is not None:
            check_entry(self._folder, self._snapshot.state)
            self._advance(self._snapshot.state.size)
        expected = [(self._bitmap(block), self._small(block.chunks)) for block in blocks]
        looks = (
            [None] * len(blocks)
            if also is None
            else also(self._snapshot, [zero for zero, _ in expected])
        )
        for block, (zero, digests), look in zip(blocks, expected, looks, strict=True):
            self._ram(block, zero, digests, look)

    def _small(self, entry: FileEntry) -> bytes:
        data = read_entry(self._folder, entry)
        self._advance(entry.size)
        return data

    def _bitmap(self, block: SnapshotBlock) -> bytes:
        """The zero bitmap, which has as many bits as the manifest counts, and none past the end."""
        zero = self._small(block.bitmap)
        pages = block.size // self._snapshot.page_bytes
        for bits in (pages, len(zero) * 8):
            found = _native.bits_count(zero, bits)
            if found != block.zero:
                raise SnapshotError(
                    f"{self._folder.path_of(block.bitmap.file)}: has {found} zero pages, and the "
                    f"manifest counts {block.zero} of block {printable(block.name)}"
                )
        return zero

    def _ram(self, block: SnapshotBlock, zero: bytes, digests: bytes, also: Look | None) -> None:
        pages = _ZeroPages(zero, block.size // self._snapshot.page_bytes, self._snapshot.page_bytes)
        before = self._done

        def look(at: int, content: bytes | bytearray) -> None:
            pages.look(at, content)
            if also is not None:
                also(at, content)

        fd, ram = open_ram(self._folder, block, self._snapshot.page_bytes)
        try:
            found = ram_digests(
                ram,
                threads=self._threads,
                look=look,
                progress=lambda done, _total: self._show(before + done),
                pace=self._pace,
            )
        except OSError as error:
            where = self._folder.path_of(block.file)
            if is_limit(error):
                raise refused(where, error) from error
            raise SnapshotError(
                f"{where}: block {printable(block.name)} cannot be read: {error.strerror}"
            ) from error
        finally:
            os.close(fd)
        self._require_same(block, found, digests)
        pages.require(block, self._folder)
        self._advance(block.size)

    def _require_same(self, block: SnapshotBlock, found: bytes, digests: bytes) -> None:
        if found == digests:
            return
        wrong = (
            number
            for number in range(block.chunk_count)
            if found[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
            != digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        )
        page = self._snapshot.page_bytes
        ranges = (
            (first * CHUNK_BYTES // page, (min((last + 1) * CHUNK_BYTES, block.size) - 1) // page)
            for first, last in merged(wrong)
        )
        raise SnapshotError(
            f"{self._folder.path_of(block.file)}: block {printable(block.name)} is damaged, or of "
            f"another snapshot: {_named(ranges)} of {block.size // page} are not as they were saved"
        )

    def _advance(self, size: int) -> None:
        self._done += size
        self._show(self._done)

    def _show(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._total)


class _ZeroPages:
    """Pages that the bitmap calls zero must be zero. Pages that it does not may be zero as well:
    what a save could not decide is stored."""

    def __init__(self, zero: bytes, pages: int, page_bytes: int) -> None:
        self._zero = zero
        self._pages = pages
        self._page_bytes = page_bytes
        self._zeros = bytes(CHUNK_BYTES)
        self._wrong: list[int] = []
        self._lock = threading.Lock()

    def look(self, at: int, chunk: bytes | bytearray) -> None:
        """Looks at the content of a chunk."""
        page, end = at // self._page_bytes, at + len(chunk)
        while page * self._page_bytes < end and page < self._pages:
            is_zero, run_end = _native.bits_run(self._zero, self._pages, page)
            if is_zero:
                begin = max(0, page * self._page_bytes - at)
                stop = min(len(chunk), run_end * self._page_bytes - at)
                if not chunk.startswith(self._zeros[: stop - begin], begin):
                    self._note(at + begin, chunk[begin:stop])
            page = run_end

    def _note(self, at: int, content: bytes | bytearray) -> None:
        step = min(self._page_bytes, CHUNK_BYTES)
        wrong = [
            (at + begin) // self._page_bytes
            for begin in range(0, len(content), step)
            if any(content[begin : begin + step])
        ]
        with self._lock:
            self._wrong += wrong[: _WRONG_MAX - len(self._wrong)]

    def require(self, block: SnapshotBlock, folder: Folder) -> None:
        """Raises SnapshotError where a page was not zero."""
        if self._wrong:
            wrong = _named(merged(sorted(set(self._wrong))))
            raise SnapshotError(
                f"{folder.path_of(block.bitmap.file)}: {wrong} of "
                f"block {printable(block.name)} are marked as zero, and are not in {block.file}"
            )


def merged(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of ascending numbers."""
    run: tuple[int, int] | None = None
    for number in numbers:
        if run is not None and number == run[1] + 1:
            run = (run[0], number)
            continue
        if run is not None:
            yield run
        run = (number, number)
    if run is not None:
        yield run


def _named(ranges: Iterator[tuple[int, int]]) -> str:
    """Ranges of pages for people, the first few of them."""
    shown = ", ".join(f"{first} to {last}" for first, last in islice(ranges, _RANGES_SHOWN))
    more = sum(1 for _ in ranges)
    return f"pages {shown}" + (f" and {more} more ranges" if more > 0 else "")
