"""Private memory of a VMM as a RAM block: what it is made of, and what an absent page of it means.

Facts: an absent page of an anonymous mapping is zero; of a private mapping of a file it is the
file's; where a userfaultfd is registered it may not have arrived. What is mapped can be unmapped or
exchanged at any moment. Danger: a page of hugetlb that is being copied or moved is
reported as absent. Decision: the block is taken apart along its mappings, an absent page is
believed only where it has one meaning, and at the end the same mappings must be there, of the same
address space.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from pagecheck.errors import ResourceError, SourceError
from pagecheck.native import _native
from pagecheck.shm.process_ram import Piece, ProcessRam
from pagecheck.vmm.find.arrival import holds_userfaultfd
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import DetailedMapping, ProcessMemory

LEAST_BYTES: Final = 16 << 20
_LOOKS: Final = 3  # at mappings that change

# Source: show_smap_vma_flags() in the kernel's fs/proc/task_mmu.c.
NOT_ARRIVED_FLAGS: Final = frozenset({"um", "uw", "ui"})
# /proc/PID/mem reads a device's registers, which may change its state.
# Source: generic_access_phys() in the kernel's mm/memory.c.
_DEVICE_FLAGS: Final = frozenset({"io", "pf"})


_Layout = list[tuple[object, ...]]


class _Part(NamedTuple):
    """A stretch of a block that one mapping, or none, is behind.

    Attributes:
        begin, end: addresses.
        mapping: None where nothing is mapped.
        flags: the mapping's.
        present: bytes of it that are in memory.
    """

    begin: int
    end: int
    mapping: Mapping | None
    flags: frozenset[str] = frozenset()
    present: int = 0


def open_private(
    process: ProcessMemory,
    text: str,
    name: str,
    base: int,
    size: int,
    *,
    details: Sequence[DetailedMapping] | None = None,
    read_swapped: bool = False,
) -> ProcessRam:
    """Opens a block of private guest RAM.

    Args:
        process: whose memory it is; stays the caller's.
        text: the source, as messages name it.
        base: address of its first byte, a multiple of 4096.
        size: bytes, likewise.
        details: what the process maps, if that was asked for already.
        read_swapped: read pages that are swapped out, which brings them in.

    Returns:
        The open block; its notes say what of it cannot be decided.

    Raises:
        SourceError: its memory may not be read, or none of it is private memory.
    """
    own = process.duplicate()
    pagemap = memory = file = -1
    try:
        pagemap, memory = own.open_memory()
        before, parts = _settled_parts(own, text, base, size, details)
        arriving = _arriving(parts)
        opened = _File(own)
        try:
            pieces, notes = _pieces(text, parts, opened, base)
        finally:
            file = opened.fd
        if all(piece.absent == _native.UNREADABLE for piece in pieces):
            raise SourceError(
                f"{text}: at {base:#x} process {own.pid} maps no private memory of {size:#x} bytes"
            )
    except BaseException:
        for fd in {pagemap, memory, file} - {-1}:
            os.close(fd)
        own.close()
        raise

    def verify() -> str | None:
        try:
            own.require_whole()  # before the mappings, which go last
            is_same = _has_layout(own, base, size, before)
            if not os.pread(pagemap, 8, base // 4096 * 8):  # its address space is gone
                # First: whoever attached this may not be told what another program maps.
                return f"process {own.pid} executed another program during the scan"
            if not is_same:
                return f"process {own.pid} unmapped or exchanged it during the scan"
            if holds_userfaultfd(own):
                now = _arriving(_parts(own.detailed_mappings(), base, size))
                if not now <= arriving:
                    return f"process {own.pid} registered a userfaultfd on it during the scan"
        except (SourceError, ResourceError) as error:
            return str(error)
        return None

    return ProcessRam(
        text,
        name,
        size,
        fd=pagemap,
        memory_fd=memory,
        pid=own.pid,
        base=base,
        pieces=pieces,
        file_fd=file,
        read_swapped=read_swapped,
        allocated=sum(part.present for part in parts),
        notes=tuple(notes),
        verify=verify,
        release=own.close,
    )


def _arriving(parts: Iterable[_Part]) -> set[tuple[int, int]]:
    """The addresses of what a userfaultfd is registered on."""
    found: list[tuple[int, int]] = []
    for part in parts:
        if not part.flags.isdisjoint(NOT_ARRIVED_FLAGS):
            joins = bool(found) and found[-1][1] == part.begin
            found.append((found.pop()[0] if joins else part.begin, part.end))
    return set(found)


def arrives(details: Iterable[DetailedMapping], base: int, size: int) -> bool:
    """Whether a userfaultfd is registered on a part of a block, so that pages may not have
    arrived."""
    return any(not part.flags.isdisjoint(NOT_ARRIVED_FLAGS) for part in _parts(details, base, size))


class _File:
    """The one file that a block may map privately.

    Attributes:
        fd: -1 before one was opened.
    """

    def __init__(self, process: ProcessMemory) -> None:
        self.fd = -1
        self._process = process
        self._place: tuple[int, int, str] | None = None

    def why_not(self, mapping: Mapping) -> str | None:
        """Opens the file behind a mapping.

        Returns:
            None: it is open. Else why not.
        """
        place = mapping.dev, mapping.inode, mapping.path
        if self._place is not None:
            return None if place == self._place else f"{mapping.path} is a second file"
        try:
            file = self._process.open_file(mapping)
        except SourceError as error:
            return str(error)
        if file is None:
            return f"{mapping.path} is a device"
        self.fd, self._place = file.fd, place
        return None


def _parts(details: Iterable[DetailedMapping], base: int, size: int) -> Iterator[_Part]:
    """A block cut along the mappings, in order and without a gap."""
    at, end = base, base + size
    for each in details:
        begin, stop = max(each.mapping.start, at), min(each.mapping.end, end)
        if begin >= stop:
            continue
        if begin > at:
            yield _Part(at, begin, None)
        yield _Part(begin, stop, each.mapping, each.flags, min(each.present, stop - begin))
        at = stop
    if at < end:
        yield _Part(at, end, None)


def _pieces(
    text: str, parts: Iterable[_Part], file: _File, base: int
) -> tuple[list[Piece], list[str]]:
    """What absent pages mean, part by part, and notes on what cannot be decided."""
    pieces: list[Piece] = []
    notes: dict[str, int] = {}
    for part in parts:
        absent, at, why = _meaning(part, file)
        all_present = absent == _native.ABSENT_UNDECIDED and part.present == part.end - part.begin
        if why is not None and not all_present:
            notes[why] = notes.get(why, 0) + part.end - part.begin
        piece = Piece(part.begin - base, part.end - base, absent, at)
        if pieces and _is_continued(pieces[-1], piece):
            piece = pieces.pop()._replace(end=piece.end)
        pieces.append(piece)
    if len(pieces) > _native.PIECES_MAX:
        raise SourceError(
            f"{text}: is made of {len(pieces)} mappings of different kinds; "
            f"at most {_native.PIECES_MAX} can be read"
        )
    return pieces, [f"{text}: {size >> 10} KiB: {why}" for why, size in notes.items()]


def _is_continued(piece: Piece, more: Piece) -> bool:
    if piece.absent != more.absent:
        return False
    is_file = piece.absent == _native.ABSENT_FILE
    return not is_file or piece.file_offset + piece.end - piece.begin == more.file_offset


def _meaning(part: _Part, file: _File) -> tuple[int, int, str | None]:
    """What an absent page means, the file offset of the first, and why pages stay undecided."""
    mapping = part.mapping
    if mapping is None or mapping.is_shared or not mapping.is_readable or _is_special(mapping):
        why = "not mapped" if mapping is None else "not private memory that may be read"
        return _native.UNREADABLE, 0, f"{why}, and undecided"
    if not part.flags.isdisjoint(_DEVICE_FLAGS):
        return _native.UNREADABLE, 0, "the memory of a device, and undecided"
    if not part.flags.isdisjoint(NOT_ARRIVED_FLAGS):
        why = "absent pages may not have arrived (userfaultfd), and are undecided"
        return _native.ABSENT_UNDECIDED, 0, why
    if "ht" in part.flags:
        # The kernel looks at hugetlb's entries without their lock: one that is being copied or
        # moved is seen as absent. Source: pagemap_scan_hugetlb_entry() in fs/proc/task_mmu.c.
        why = "absent pages of hugetlb may be on their way (a copy, a move), and are undecided"
        return _native.ABSENT_UNDECIDED, 0, why
    if mapping.is_anonymous:
        return _native.ABSENT_ZERO, 0, None
    if (why_not := file.why_not(mapping)) is not None:
        why = f"absent pages are those of a file, and undecided: {why_not}"
        return _native.ABSENT_UNDECIDED, 0, why
    return _native.ABSENT_FILE, mapping.offset + part.begin - mapping.start, None


def _is_special(mapping: Mapping) -> bool:
    """Whether it is the kernel's, such as [vvar]; [heap] and [anon:NAME] are plain memory."""
    return mapping.path.startswith("[") and not mapping.path.startswith(("[heap]", "[anon:"))


def _settled_parts(
    process: ProcessMemory,
    text: str,
    base: int,
    size: int,
    details: Sequence[DetailedMapping] | None,
) -> tuple[_Layout, list[_Part]]:
    """What a block is made of, seen twice, from `details` if these are still right."""
    for _ in range(_LOOKS):
        found = list(process.detailed_mappings()) if details is None else details
        layout = _layout((each.mapping for each in found), base, size)
        if _has_layout(process, base, size, layout):
            return layout, list(_parts(found, base, size))
        details = None
    raise SourceError(f"{text}: its mappings changed while it was inspected; try again")


def _has_layout(process: ProcessMemory, base: int, size: int, layout: _Layout) -> bool:
    """Whether a block is mapped so. The kernel writes maps line by line, and what it splits or
    joins meanwhile may be missing for once: what is not so is looked at again."""
    return any(_layout(process.mappings(), base, size) == layout for _ in range(_LOOKS))


def _layout(mappings: Iterable[Mapping], base: int, size: int) -> _Layout:
    """What is mapped in a block, whatever lines describe it: equal before and after, it is the same
    memory."""
    found: list[tuple[object, ...]] = []
    at = base
    for each in mappings:
        begin, end = max(each.start, base), min(each.end, base + size)
        if begin >= end:
            continue
        shift = 0 if each.is_anonymous else each.offset - each.start
        kind = (each.is_shared, each.is_readable, each.dev, each.inode, shift)
        if found and begin == at and found[-1][2:] == kind:
            begin = found.pop()[0]  # type: ignore[assignment]
        found.append((begin, end, *kind))
        at = end
    return found
