"""What a service answered, member by member: nothing of it is trusted before it is checked.

Danger: who answers may be a false service, a broken one, or one of another version. Decision: a
member of the wrong type or an impossible number is the peer's fault (`PeerError`); bitmaps are
copied first, and counts are those of the copy. Unknown members are skipped, as the protocol
requires.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from pagecheck.errors import PagecheckError, PeerError, from_wire
from pagecheck.model import Counts, Pause, RamBlock, Region
from pagecheck.native import _native
from pagecheck.report.report import BlockReport
from pagecheck.shm.received import copy_of, sealed_size

PAGE_SIZE_MIN: Final = 4096
SIZE_MAX: Final = 1 << 62
_U64_MAX: Final = (1 << 64) - 1
_REQUIRED: Final[Any] = object()
_T = TypeVar("_T")


class RemoteBlock(NamedTuple):
    """A RAM block that a client attached.

    Attributes:
        number: its number in commands and rings.
        regions: where its parts lie in guest-physical memory; empty where that is not known.
        connection: of the client that attached it; other connections have other blocks of its
            number.
    """

    number: int
    ram: RamBlock
    regions: tuple[Region, ...]
    connection: int = 0


class UnreadableBlock(NamedTuple):
    """A RAM block of a VM that cannot be read: all of its pages are undecided.

    Attributes:
        regions: where its parts lie in guest-physical memory.
        why: the reason, on one line.
    """

    ram: RamBlock
    regions: tuple[Region, ...]
    why: str


class Attached(list[RemoteBlock]):
    """The blocks that were attached, and what else there is to know of a VM.

    Attributes:
        unreadable: its blocks that cannot be attached.
        notes: one line each.
    """

    def __init__(
        self,
        blocks: Iterable[RemoteBlock],
        unreadable: Iterable[UnreadableBlock] = (),
        notes: Iterable[str] = (),
    ) -> None:
        super().__init__(blocks)
        self.unreadable = tuple(unreadable)
        self.notes = tuple(notes)


class Checked(NamedTuple):
    """What a check found.

    Attributes:
        answer: `live` is a hint, `at-rest` and `paused` are exact.
        blocks: bitmaps of every block that was asked for, as they were when the answer came.
        raw: the answer's other members: engine, kernel, channels, bytes_checked, why_live.
    """

    answer: Any
    blocks: tuple[BlockReport, ...]
    notes: tuple[str, ...]
    pause: Pause | None
    raw: dict[str, Any]


class Members:
    """The members of a JSON object that a service sent, each taken by type and range."""

    def __init__(self, given: Any, what: str) -> None:
        """Raises PeerError unless it is an object.

        Args:
            what: names it in messages, such as `the answer to check`.
        """
        if not isinstance(given, dict):
            raise PeerError(f"{what}: is not an object")
        self._given = given
        self._what = what

    def _take(self, name: str, default: Any, expected: str, fits: Callable[[Any], bool]) -> Any:
        if name not in self._given and default is not _REQUIRED:
            return default
        value = self._given.get(name)
        if name not in self._given or not fits(value):
            raise PeerError(f"{self._what}: {name} is not {expected}")
        return value

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._given

    def integer(self, name: str, low: int, high: int, default: Any = _REQUIRED) -> Any:
        """A whole number between two bounds, both included."""
        expected = f"a whole number from {low} to {high}"
        return self._take(name, default, expected, lambda v: type(v) is int and low <= v <= high)

    def seconds(self, name: str) -> float:
        """A number of at least 0."""
        fits = lambda v: type(v) in (int, float) and 0 <= v < 1e12  # noqa: E731
        return float(self._take(name, _REQUIRED, "a number of seconds", fits))

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """true or false."""
        return bool(self._take(name, default, "true or false", lambda v: type(v) is bool))

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """A string."""
        return str(self._take(name, default, "a string", lambda v: isinstance(v, str)))

    def text_or_none(self, name: str) -> str | None:
        """A string; None where it is null or missing."""
        fits = lambda v: v is None or isinstance(v, str)  # noqa: E731
        found: str | None = self._take(name, None, "a string or null", fits)
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty where it is missing."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(each, str) for each in value)

        return tuple(self._take(name, (), "a list of strings", fits))

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers of at least 0; empty where it is missing."""

        def fits(value: Any) -> bool:
            return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)

        return tuple(self._take(name, (), "a list of whole numbers", fits))

    def object(self, name: str) -> Members:
        """An object."""
        return Members(self._take(name, _REQUIRED, "an object", _is_object), self._at(name))

    def each(self, name: str, make: Callable[[Members], _T], default: Any = _REQUIRED) -> list[_T]:
        """Every object of a list, converted by `make`."""
        given = self._take(name, default, "a list", lambda v: isinstance(v, list))
        return [make(Members(one, f"{self._at(name)}[{i}]")) for i, one in enumerate(given)]

    def _at(self, name: str) -> str:
        return f"{self._what}: {name}"

    def wrong(self, text: str) -> PeerError:
        """An error to raise, that names the object."""
        return PeerError(f"{self._what}: {text}")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def service_error(given: object) -> PagecheckError:
    """The service's error as our own class."""
    error = from_wire(given, unknown=PeerError)
    return error if isinstance(error, PagecheckError) else PeerError(f"the service: {error}")


def region(given: Members) -> Region:
    """Where a part of a block lies in the guest."""
    return Region(*(given.integer(name, 0, _U64_MAX) for name in Region._fields))


def remote_block(given: Members) -> RemoteBlock:
    """A block that the service has."""
    page_size = _page_size(given)
    size = given.integer("size", page_size, SIZE_MAX)
    if size % page_size:
        raise given.wrong(f"size is not a multiple of {page_size}")
    ram = RamBlock(_name(given), size, page_size, given.integer("offset", 0, SIZE_MAX))
    number = given.integer("block", 0, (1 << 32) - 1)
    return RemoteBlock(number, ram, tuple(given.each("regions", region)))


def _name(given: Members) -> str:
    """A block's name: files are called by it."""
    name = given.text("name")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise given.wrong("name cannot be encoded") from error
    return name


def _page_size(given: Members) -> int:
    size: int = given.integer("page_size", PAGE_SIZE_MIN, SIZE_MAX)
    if size & (size - 1):
        raise given.wrong("page_size is not a power of two")
    return size


def unreadable_block(given: Members, page_size: int) -> UnreadableBlock:
    """A block that the service cannot read."""
    ram = RamBlock(_name(given), given.integer("size", 0, SIZE_MAX), page_size)
    return UnreadableBlock(ram, tuple(given.each("regions", region)), given.text("why"))


def attached(reply: dict[str, Any], page_size: int) -> Attached:
    """The answer to `attach`.

    Raises:
        PeerError: it is invalid, or its pages are of another size than was asked for.
    """
    given = Members(reply, "the answer to attach")
    blocks = given.each("blocks", remote_block)
    if not blocks or any(block.ram.page_size != page_size for block in blocks):
        raise given.wrong(f"no block, or one whose pages are not of {page_size} bytes")
    unreadable = given.each("unreadable", lambda each: unreadable_block(each, page_size), ())
    return Attached(blocks, unreadable, given.texts("notes"))


def checked(
    reply: dict[str, Any], fds: list[int], blocks: Sequence[RemoteBlock], *, whole: bool
) -> Checked:
    """The answer to `check`.

    Args:
        fds: what came with it; they stay the caller's.
        blocks: what was asked for, in that order.
        whole: all of their pages were asked for.

    Raises:
        PeerError: it is invalid.
        ResourceError: memory is short for its bitmaps.
    """
    given = Members(reply, "the answer to check")
    if len(fds) != 1:
        raise given.wrong("came without its bitmaps")
    bitmaps = _Bitmaps(fds[0], whole)
    listed = listed_of(given, blocks)
    found = [bitmaps.report(each, block) for each, block in zip(listed, blocks, strict=True)]
    answer = given.text("answer")
    raw = {
        "engine": given.text("engine"),
        "kernel": given.text_or_none("kernel"),
        "channels": given.integer("channels", 0, (1 << 32) - 1),
        "bytes_checked": given.integer("bytes_checked", 0, _U64_MAX),
        "why_live": given.text_or_none("why_live"),
    }
    pause = None if reply.get("pause") is None else pause_of(given.object("pause"))
    # An answer of a kind that is not known here is no more than a hint.
    known = answer if answer in ("at-rest", "paused") else "live"
    return Checked(known, tuple(found), given.texts("notes"), pause, raw)


def listed_of(given: Members, blocks: Sequence[RemoteBlock]) -> list[Members]:
    """What an answer lists of the blocks that were asked for, in their order.

    Raises:
        PeerError: it is of others.
    """
    listed = given.each("blocks", lambda each: each)
    if len(listed) != len(blocks):
        raise given.wrong(f"is of {len(listed)} blocks, {len(blocks)} were asked for")
    for each, block in zip(listed, blocks, strict=True):
        if each.integer("block", 0, _U64_MAX) != block.number:
            raise each.wrong(f"is of another block than {block.number}")
    return listed


class _Bitmaps:
    """The memory that came with the answer to `check`."""

    def __init__(self, fd: int, whole: bool) -> None:
        self._fd = fd
        self._whole = whole
        self._size = sealed_size(fd, "the bitmaps of the answer to check")

    def report(self, given: Members, block: RemoteBlock) -> BlockReport:
        """One block's bitmaps, copied, and what they say."""
        places = given.object("bitmaps")
        pages = block.ram.pages
        zero, normal = (self._words(places.object(name), pages) for name in ("zero", "normal"))
        third: dict[str, memoryview] = {}
        for name in ("hole", "unchanged"):
            if places.has(name):
                third[name] = self._words(places.object(name), pages)
        unchanged = third.get("unchanged", memoryview(b""))
        if _overlap(zero, normal) or _overlap(zero, unchanged) or _overlap(normal, unchanged):
            raise given.wrong("its bitmaps contradict each other")
        counts = self._counts(given.object("counts"), pages, zero, normal, third)
        return BlockReport(
            block.ram,
            counts,
            zero,
            normal,
            third.get("unchanged"),
            regions=block.regions,
            hole=third.get("hole"),
        )

    def _counts(
        self,
        given: Members,
        pages: int,
        zero: memoryview,
        normal: memoryview,
        third: dict[str, memoryview],
    ) -> Counts:
        """The counts of the answer, if they are those of the bitmaps."""
        known = {"zero": zero, "normal": normal, **third}
        counted = {name: _native.bits_count(words, pages) for name, words in known.items()}
        swapped = given.integer("swapped", 0, pages, 0)  # an older service does not report it
        named = {name: given.integer(name, 0, pages) for name in Counts._fields[:-1]}
        counts = Counts(**named, swapped=swapped)
        decided = counts.zero + counts.normal + counts.unchanged
        if (
            any(getattr(counts, name) != count for name, count in counted.items())
            or ("unchanged" not in third and counts.unchanged)
            or counts.hole > counts.zero
            or counts.swapped > counts.undecided
            or decided + counts.undecided != counts.pages
            or (self._whole and counts.pages != pages)
        ):
            raise given.wrong("is not what the bitmaps say")
        return counts

    def _words(self, place: Members, pages: int) -> memoryview:
        return words_at(place, self._fd, self._size, pages, "the bitmaps of the answer to check")


def words_at(place: Members, fd: int, most: int, pages: int, what: str) -> memoryview:
    """A bitmap of so many pages, copied.

    Args:
        most: bytes of the memory that it is in.
        what: names that in messages.
    """
    size = (pages + 63) // 64 * 8
    if place.integer("bytes", 0, SIZE_MAX) != size:
        raise place.wrong(f"is not of the {size} bytes of {pages} pages")
    offset = place.integer("offset", 0, SIZE_MAX)
    if offset + size > most:
        raise place.wrong(f"ends past the {most} bytes of its memory")
    words = copy_of(fd, offset, size, what)
    if _native.bits_count(words, size * 8) != _native.bits_count(words, pages):
        raise place.wrong("has bits of pages past the block")
    return words


def _overlap(one: memoryview, other: memoryview) -> bool:
    return int.from_bytes(one, "little") & int.from_bytes(other, "little") != 0


def pause_of(given: Members) -> Pause:
    """How a VM was stopped."""
    flags = {name: given.flag(name) for name in ("stood_still", "expired", "stopped_by_us")}
    return Pause(given.seconds("seconds"), left_stopped=given.flag("left_stopped", False), **flags)
