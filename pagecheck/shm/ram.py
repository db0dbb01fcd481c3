"""RAM sources: what is scanned, opened once, read-only, and never changed by reading.

Facts: reading a hole of tmpfs, memfd or hugetlbfs through a mapping allocates it; pread does not.
SEEK_DATA reports holes on tmpfs, memfd, ext4, xfs and btrfs, and "all data" on hugetlbfs.
Decision: holes are trusted only on the file systems named here, and what a worker may
access through a mapping is stated by flags that are derived here from the file system alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat

from pagecheck.errors import PagecheckError, SourceError, UsageError
from pagecheck.formats import identify
from pagecheck.native import Walk, _native
from pagecheck.shm.extents import by_seeking
from pagecheck.shortage import is_limit, refused

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final

    from pagecheck.model import Format, RamBlock

TMPFS: Final = 0x01021994  # also memfd; Source: linux/magic.h
HUGETLBFS: Final = 0x958458F6
SHM: Final = "/dev/shm"
DISK: Final = {0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs"}


class RamSource:
    """One open RAM file.

    Attributes:
        text: the source as the user named it.
        name: the block's name.
        fd: read-only descriptor.
        own_description: the open file description is not shared, so that its offset and its leases
            are ours.
        notes: for the user, independent of what a scan finds.
    """

    is_file: Final = True
    why_not_mapped: Final = "cannot be mapped without changing it on this file system"

    def __init__(self, text: str, name: str, fd: int, *, own_description: bool = True) -> None:
        """Takes over `fd`.

        Args:
            own_description: False when the open file description is shared with others, so that
                neither its offset nor its leases may be touched.
        """
        self.text = text
        self.name = name
        self.fd = fd
        self.notes: tuple[str, ...] = ()
        self.own_description = own_description
        try:
            self.magic = _native.file_system_magic(fd)
        except BaseException:
            self.close()
            raise

    def duplicate(self) -> RamSource:
        """The same file once more, with a descriptor of its own; not for use at the same time."""
        own = self.own_description
        return RamSource(self.text, self.name, os.dup(self.fd), own_description=own)

    @property
    def size(self) -> int:
        """The file's size now, in bytes."""
        return os.fstat(self.fd).st_size

    @property
    def allocated(self) -> int:
        """Bytes that the file has allocated now."""
        return os.fstat(self.fd).st_blocks * 512

    @property
    def holes_are_proof(self) -> bool:
        """Whether SEEK_DATA's holes are known to be zero on this file system."""
        return self.own_description and (self.magic == TMPFS or self.magic in DISK)

    @property
    def is_shared_memory(self) -> bool:
        """Whether a store through a mapping leaves the file's times unchanged."""
        return self.magic in (TMPFS, HUGETLBFS)

    @property
    def is_known_file_system(self) -> bool:
        """Whether the kernel itself serves it, so that a read cannot hang."""
        return self.is_shared_memory or self.magic in DISK

    def attachment(self, start: int, *, trust_holes: bool, mapped: bool) -> dict[str, object]:
        """What a worker needs to know of it, beside what a block is; see `workers/program.py`.

        Args:
            start: byte offset of the block in the file.
            mapped: workers map it; else they read it.
        """
        return {
            "start": start,
            "flags": self.flags(trust_holes=trust_holes),
            "dense_bytes": self.dense_bytes() if mapped else 0,
            "map": mapped,
        }

    @property
    def attachment_fds(self) -> tuple[int, ...]:
        """The descriptors that go with it, which stay its own."""
        return (self.fd,)

    def walk(self, ram: RamBlock, hole: memoryview, zero: memoryview) -> Walk:
        """A walk over a block's pages.

        Args:
            hole, zero: bitmaps, which get the bits of the pages in holes.
        """
        return Walk(self.fd, ram.start, ram.page_size, ram.pages, hole, zero)

    def verify(self) -> str | None:
        """Why nothing that was read until now can be believed; None: an open file stays itself."""
        return None

    def swapped(self, _ram: RamBlock, _zero: memoryview, _normal: memoryview) -> int:
        """How many undecided pages are swapped out: none, a file is read wherever it is."""
        return 0

    def flags(self, *, trust_holes: bool) -> int:
        """What workers may do with it: TOUCH_FREELY, TRUST_HOLES, ASK_RESIDENT."""
        flags = 0
        if self.magic in DISK:
            flags |= _native.TOUCH_FREELY
        if trust_holes and self.holes_are_proof:
            flags |= _native.TRUST_HOLES
        if self._may_ask_resident():
            flags |= _native.ASK_RESIDENT
        return flags

    def can_map(self, start: int, size: int) -> bool:
        """Whether mapping this part is safe: hugetlbfs only where it is fully allocated, since a
        mapping reserves, and on unknown file systems not at all."""
        if start % mmap.PAGESIZE:
            return False
        if self.magic == HUGETLBFS:
            st = os.fstat(self.fd)
            huge = os.fstatvfs(self.fd).f_bsize
            return self.allocated == st.st_size and start % huge == 0 and size % huge == 0
        return self.magic == TMPFS or self.magic in DISK

    def _may_ask_resident(self) -> bool:
        # mincore reports everything resident to a user who neither owns nor may write the file.
        # Source: can_do_mincore() in mm/mincore.c, Linux 5.2.
        if self.magic == HUGETLBFS or mmap.PAGESIZE != 4096:
            return False  # the helper counts resident pages in units of 4 KiB
        if os.fstat(self.fd).st_uid == os.geteuid():
            return True
        return os.access(f"/proc/self/fd/{self.fd}", os.W_OK, effective_ids=True)

    @property
    def looks_dense(self) -> bool:
        """Whether as much is allocated as the file is long. Not a proof: blocks past the end of the
        file count too."""
        st = os.fstat(self.fd)
        return self.magic == TMPFS and st.st_blocks * 512 == -(-st.st_size // 4096) * 4096

    def dense_bytes(self) -> int:
        """Size of a file that has no hole, or 0 where it has one or that is unknown.

        Blocks past the end of the file also count in st_blocks, so that their number alone
        proves nothing; hugetlbfs reports no holes, so there it has to suffice.
        """
        st = os.fstat(self.fd)
        if st.st_blocks * 512 != -(-st.st_size // 4096) * 4096:
            return 0
        if self.magic == HUGETLBFS:
            return st.st_size
        whole = (0, st.st_size)
        with contextlib.suppress(OSError):
            if self.holes_are_proof and next(by_seeking(self.fd, *whole), None) == whole:
                return st.st_size
        return 0

    def __enter__(self) -> RamSource:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_source(source: str | os.PathLike[str], format: Format = "auto") -> RamSource:
    """Opens a path, `fd:N` or `shm:/name`.

    Args:
        format: `auto` refuses a file that is certainly not raw RAM, and notes a doubt; `raw` treats
            it as raw RAM whatever it looks like.

    Raises:
        SourceError: it does not exist, cannot be read, or is not a file of raw RAM.
        UsageError: the format is unknown.
    """
    if format not in ("auto", "raw"):
        raise UsageError(f"format {format!r}: not one of 'auto', 'raw'")
    text = os.fspath(source)
    if text.startswith("fd:"):
        opened = _open_fd(text)
    elif text.startswith("shm:"):
        opened = _open_shm(text)
    elif text == "-":
        from pagecheck.shm.hints import DASH

        raise SourceError(DASH)
    else:
        opened = _open_path(text)
    if format == "auto":
        require_raw(opened)
    return opened


def require_raw(source: RamSource) -> None:
    """Checks whether the file is raw RAM, and notes a doubt; reads a few bytes of it.

    Raises:
        SourceError: it is certainly something else; the source is closed then.
    """
    found = identify(source.fd)
    if found is None:
        return
    from pagecheck.formats.found import note, refusal

    if found.doubt is None:
        source.close()
        raise SourceError(refusal(source.text, found))
    source.notes = (note(source.text, found),)


def _open_path(path: str) -> RamSource:
    try:
        _require_regular(path, os.stat(path))
        fd = _open_quietly(path)
    except ValueError as error:
        raise SourceError(f"{path}: cannot open: {error}") from error
    except OSError as error:
        raise _not_opened(path, path, error) from error
    return _checked(RamSource(path, os.path.basename(path), fd))


def _not_opened(text: str, path: str, error: OSError) -> PagecheckError:
    """The error for a path that cannot be opened, with a hint where one is known."""
    from pagecheck.shm.hints import of_error

    if is_limit(error):
        return refused(f"{text}: cannot open", error)
    more = of_error(path, error)
    return SourceError(f"{text}: cannot open: {error.strerror}" + (f"; {more}" if more else ""))


LEASED: Final = "another process holds a lease on it (F_SETLEASE in fcntl(2)); try again"
# Without O_NONBLOCK an open waits for a FIFO's other end, and 45 s for another's lease.
_QUIET: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def _open_quietly(path: str) -> int:
    """Read-only, without blocking, and without a new access time where permitted."""
    try:
        try:
            return os.open(path, _QUIET | os.O_NOATIME)
        except PermissionError:  # not our file
            return os.open(path, _QUIET)
    except BlockingIOError as error:
        raise BlockingIOError(error.errno, LEASED) from error


def _open_fd(text: str) -> RamSource:
    try:
        number = int(text.removeprefix("fd:"))
        if not 0 <= number < 1 << 31:
            raise ValueError
    except ValueError as error:
        raise SourceError(f"{text}: not a file descriptor; write fd:N, such as fd:3") from error
    try:
        _require_regular(text, os.fstat(number))
        readable = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
    except OSError as error:
        raise SourceError(
            f"{text}: no such open descriptor: {error.strerror}; pass it on to pagecheck"
        ) from error
    try:
        fd = _open_quietly(f"/proc/self/fd/{number}")
    except OSError as error:
        if not readable:
            raise SourceError(f"{text}: not open for reading: {error.strerror}") from error
        return _checked(RamSource(text, text, os.dup(number), own_description=False))
    return _checked(RamSource(text, text, fd))


def adopt(fd: int, text: str, name: str) -> RamSource:
    """A source from a descriptor that a peer passed and that stays the caller's.

    No request goes to its file system before that is known to be the kernel's own: a FUSE file
    could block us for ever. Only tmpfs, memfd and hugetlbfs have seals. Source: memfd_get_seals
    in mm/memfd.c.

    Raises:
        SourceError: it is of another file system, not open for reading, not a file, or empty.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise SourceError(
            f"{text}: is neither a memfd nor a file on tmpfs or hugetlbfs; only such descriptors "
            "are accepted"
        ) from error
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
        raise SourceError(f"{text}: is open for writing only; pass it on open for reading")
    try:
        own = os.open(f"/proc/self/fd/{fd}", _QUIET | os.O_NOATIME)
    except BlockingIOError as error:
        raise SourceError(f"{text}: {LEASED}") from error
    except OSError:  # not our file: then its offset is shared with the sender
        return _checked(RamSource(text, name, os.dup(fd), own_description=False))
    return _checked(RamSource(text, name, own))


def shm_path(text: str) -> str:
    """The path of a POSIX shared-memory object.

    Args:
        text: `shm:/name`.

    Raises:
        SourceError: it is no such name.
    """
    name = text.removeprefix("shm:")
    if not name.startswith("/") or "/" in name[1:] or len(name) < 2 or "\0" in name:
        raise SourceError(f"{text}: not a shared-memory name; write shm:/name with one slash")
    return f"{SHM}{name}"


def _open_shm(text: str) -> RamSource:
    path = shm_path(text)
    name = path.removeprefix(SHM)
    try:
        # As shm_open(3), which has no way not to wait for a lease or for a FIFO's other end.
        fd = os.open(path, _QUIET | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        from pagecheck.shm.hints import nearest

        near = nearest(SHM, name[1:])
        more = "" if near is None else f"; the nearest name is shm:/{near}"
        raise SourceError(
            f"{text}: no shared-memory object of that name in /dev/shm{more}"
        ) from error
    except BlockingIOError as error:
        raise SourceError(f"{text}: cannot open: {LEASED}") from error
    except OSError as error:
        raise _not_opened(text, path, error) from error
    return _checked(RamSource(text, name[1:], fd))


def _checked(source: RamSource) -> RamSource:
    """Checks what was actually opened: the name may have been replaced since."""
    try:
        _require_regular(source.text, os.fstat(source.fd))
        if source.size == 0:
            from pagecheck.shm.hints import of_empty

            raise SourceError(f"{source.text}: {of_empty(source.magic)}")
    except SourceError:
        source.close()
        raise
    return source


def _require_regular(text: str, st: os.stat_result) -> None:
    if stat.S_ISREG(st.st_mode):
        return
    from pagecheck.shm.hints import of_kind

    path = f"/dev/shm{text.removeprefix('shm:')}" if text.startswith("shm:") else text
    raise SourceError(f"{text}: {of_kind(path, st.st_mode)}")
