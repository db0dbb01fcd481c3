"""What a survey is about and what it finds: memory files, their pieces, their rows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from pagecheck.coordinator.settings import Engine
from pagecheck.errors import SourceError
from pagecheck.model import Counts, Format, Holes
from pagecheck.survey.strips import picture_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagecheck.picture.strip import Strip

IN_FLIGHT: Final = 256 << 20

TargetKind = Literal["file", "snapshot", "object"]


class Address(str):
    """A URL as the user gave it, which may hold a password or a signature: only whoever opens it
    has a use for it, and what prints a target does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Address(...)"


class Target(NamedTuple):
    """One memory file, wherever it lies.

    Attributes:
        path: its name in rows: an absolute path, or a URL without credentials.
        kind: a file that the kernel opens, a directory that `save` made, or an object of a store.
        size: bytes of RAM.
        allocated: bytes that it occupies; None where the store does not tell.
        identity: what changes when its bytes do: inode, size and times, or the ETag; empty where a
            store gives nothing.
        address: where an object is read, if `path` leaves something of it out.
    """

    path: str
    kind: TargetKind
    size: int
    allocated: int | None
    identity: str
    address: Address | None = None


class Piece(NamedTuple):
    """A range of a target that is checked in one go, by one process.

    Attributes:
        start, length: bytes; multiples of the page size, the target's end aside.
    """

    target: Target
    start: int
    length: int


class Options(NamedTuple):
    """How pieces are checked; `Coordinator` and `Coordinator.attach` document the fields.

    Attributes:
        max_rate: bytes per second that may be read; a runner gives each checker its share.
        pictures: whether rows have small pictures of where their pages lie.
        in_flight: bytes of objects of stores that each process may have in memory: on their way,
            or being checked.
    """

    page_size: int = 4096
    engine: Engine = "auto"
    wq: tuple[str, ...] = ()
    fallback: bool = False
    kernel: str | None = None
    nice: int = 0
    stall: float = 30.0
    holes: Holes = "trust"
    format: Format = "auto"
    max_rate: int | None = None
    pictures: bool = False
    in_flight: int = IN_FLIGHT


class Found(NamedTuple):
    """What a piece holds.

    Attributes:
        counts: of its pages; `zero` has the holes in it, as everywhere.
        bytes_checked: bytes that were read.
        seconds: what it took, without waiting for its turn.
        settled: False where it may have been written meanwhile.
        note: why pages are undecided, or a doubt about the file; one line.
        strip: where its pages lie; None where no picture was asked for.
    """

    piece: Piece
    counts: Counts
    bytes_checked: int
    seconds: float
    settled: bool = True
    note: str | None = None
    strip: Strip | None = None


class Failed(NamedTuple):
    """A piece without an answer.

    Attributes:
        error: why, in one line that does not name the target.
    """

    piece: Piece
    error: str


class Row(NamedTuple):
    """A line of a survey; the first ten are the members of its JSON line.

    Attributes:
        path: as of its target, or as the user gave it where there is none.
        bytes: of RAM.
        allocated: bytes that it occupies; None where that is not known.
        pages: zero + normal + undecided; `hole` are those of the zero pages that were not read.
        seconds: checking time, added over its pieces.
        error: why there is no answer, in one line; the numbers are 0 then.
        kind: of the target; None where there is none.
        identity: of the target; None where its bytes may have changed while they were checked.
        bytes_checked: bytes that were read.
        note: why pages are undecided, or a doubt about the file.
        picture: where its pages lie, as of `strips.picture_of`; None where it was not asked for.
    """

    path: str
    bytes: int
    allocated: int | None
    pages: int
    zero: int
    hole: int
    normal: int
    undecided: int
    seconds: float
    error: str | None = None
    kind: TargetKind | None = None
    identity: str | None = None
    bytes_checked: int = 0
    note: str | None = None
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Its JSON line."""
        return dict(list(self._asdict().items())[:10])

    def holds_for(self, target: Target) -> bool:
        """Whether it is an answer about the target, and the target has not changed since."""
        if self.error is not None or self.undecided or self.identity is None:
            return False
        return (self.kind, self.identity) == (target.kind, target.identity)


def identity_of(status: os.stat_result) -> str:
    """What changes when the bytes of a file do. Its device is left out: that of many file systems
    is another one after a boot."""
    return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def one_line(error: BaseException | str, path: str) -> str:
    """An error or a note about a path, in one line that does not begin with it."""
    text = " ".join(str(error).split())
    for begin in (path, os.path.basename(path)):
        text = text.removeprefix(f"{begin}: ")
    return text


def why_stalled(stall: float, kind: str | None = None) -> str:
    """The error of a file whose file system is silent.

    Args:
        stall: seconds.
        kind: of the file system, where it is known.
    """
    of_kind = f" ({kind})" if kind else ""
    return f"its file system{of_kind} did not answer for {stall:g} s"


def was_cut(path: str, size: int) -> SourceError:
    """To be raised where a file is shorter than it was found."""
    return SourceError(f"{path}: was cut to {size} bytes meanwhile")


def row_of(target: Target, found: Iterable[Found]) -> Row:
    """The row of a target whose pieces were all checked."""
    pieces = list(found)
    counts = Counts.sum(each.counts for each in pieces)
    return Row(
        target.path,
        target.size,
        target.allocated,
        counts.pages,
        counts.zero,
        counts.hole,
        counts.normal,
        counts.undecided,
        sum(each.seconds for each in pieces),
        kind=target.kind,
        identity=target.identity if all(each.settled for each in pieces) else None,
        bytes_checked=sum(each.bytes_checked for each in pieces),
        note=next((each.note for each in pieces if each.note is not None), None),
        picture=picture_of([each.strip for each in pieces]),
    )


def row_of_error(path: str, error: str, target: Target | None = None) -> Row:
    """The row of what could not be answered."""
    size, allocated, kind, identity = (
        (target.size, target.allocated, target.kind, target.identity)
        if target
        else (0, None, None, None)
    )
    return Row(path, size, allocated, 0, 0, 0, 0, 0, 0.0, error=error, kind=kind, identity=identity)
