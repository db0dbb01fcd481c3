"""QEMU's small RAM blocks, which no file holds: video memory, ROMs, ACPI tables, flash.

Facts: `info ramblock` lists every block; where it lies in QEMU's memory stands there in newer
versions only (not in 7.2). QEMU describes each block by a structure of its heap, which holds the
listed numbers side by side, the host address 16 bytes before them and the name behind; all of them
are in one list. A block without a name is not migrated by QEMU either. Danger: other memory is
saved in a block's place. Decision: a structure counts only where all three numbers and the name are
the listed ones, and it is in the list that has all blocks and no other, or no other structure says
otherwise; and only if the same search finds a block of guest RAM where QEMU's monitor says that it
is. What is not found is an error, before the VM is stopped.

Source: struct RAMBlock in QEMU's include/exec/ramblock.h; ram_block_format() in softmmu/physmem.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from mmap import PAGESIZE
from typing import Final, NamedTuple

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import Admit, ProcessMemory
from pagecheck.vmm.process.resident import read_resident
from pagecheck.vmm.qemu.asking import host_address, human
from pagecheck.vmm.qemu.list import Listed, walk_list
from pagecheck.vmm.qemu.mtree import parse_mtree
from pagecheck.vmm.qemu.objects import Numbers, find_structures

PAGE_BYTES: Final = 4096  # of the guests that can be saved

_ADDRESS: Final = re.compile(r"0x[0-9a-f]{1,16}")
_TOTAL_MAX: Final = 4 << 30  # bytes of small blocks; more is not small


class RamBlock(NamedTuple):
    """A RAM block as QEMU lists it.

    Attributes:
        name: its id in a migration stream; empty where it is not migrated.
        offset: in QEMU's own space of RAM addresses.
        used: bytes that it has now.
        size: bytes that it may have.
        address: in QEMU's memory; 0 where that is not listed.
    """

    name: str
    offset: int
    used: int
    size: int
    address: int


class SavedBlock(NamedTuple):
    """What was in a RAM block.

    Attributes:
        name: its id in a migration stream.
        size: bytes.
        runs: offset and content of what may not be zero, in order, in whole pages.
    """

    name: str
    size: int
    runs: tuple[tuple[int, bytes], ...]


def ram_blocks(monitor: QemuMonitor) -> list[RamBlock]:
    """Every RAM block of a VM.

    Raises:
        PeerError: QEMU does not answer, or lists none.
    """
    found = []
    for line in human(monitor, "info ramblock").splitlines()[1:]:
        words = line.split()
        host = "0x0"
        if len(words) > 6 and words[-1] in ("rw", "ro"):
            host = words[-2]
            del words[-2:]
        numbers = [*words[-3:], host]  # behind the name, and a page size of two words
        if len(words) < 5 or not all(_ADDRESS.fullmatch(each) for each in numbers):
            raise PeerError(f"{monitor.name}: 'info ramblock' shows {line.strip()[:80]!r}")
        found.append(RamBlock(" ".join(words[:-5]), *(int(each, 16) for each in numbers)))
    if not found:
        raise PeerError(f"{monitor.name}: 'info ramblock' lists no RAM block")
    return found


class SmallBlocks:
    """The RAM blocks beside those that files hold; a context manager."""

    def __init__(
        self, monitor: QemuMonitor, carried: Collection[str], admit: Admit | None = None
    ) -> None:
        """Finds them; the VM may run.

        Args:
            carried: names of the blocks that files hold.
            admit: as of a `ProcessMemory`.

        Raises:
            SourceError: one cannot be found or read.
            PeerError: QEMU does not answer, or its answer is invalid.
        """
        self._monitor = monitor
        self._listed = ram_blocks(monitor)
        self._blocks: list[RamBlock] = []
        self._process: ProcessMemory | None = None
        self._pagemap = self._memory = -1
        small = [each for each in self._listed if each.name and _plain(each) not in carried]
        _require_small(monitor, small)
        try:
            if small:
                self._open(admit)
                self._blocks = self._found(small, carried)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(each.used for each in self._blocks)

    def read(self) -> tuple[SavedBlock, ...]:
        """Reads them; the VM is stopped.

        Raises:
            SourceError: they are not what they were, or one cannot be read.
            PeerError: QEMU does not answer.
        """
        if ram_blocks(self._monitor) != self._listed:
            raise SourceError(f"{self._monitor.name}: RAM blocks came or went meanwhile; try again")
        if self._process is None:
            return ()
        mappings = self._process.mappings()
        saved = tuple(self._read(each, mappings) for each in self._blocks)
        self._process.verify()
        return saved

    def close(self) -> None:
        """Closes the process. May be called twice."""
        for fd in {self._pagemap, self._memory} - {-1}:
            os.close(fd)
        self._pagemap = self._memory = -1
        if self._process is not None:
            self._process.close()
            self._process = None

    def _open(self, admit: Admit | None) -> None:
        if self._monitor.peer_pid <= 0:
            raise SourceError(
                f"{self._monitor.name}: QEMU's process cannot be seen from here (another pid "
                "namespace), and no file holds its video memory and ROMs; save it from the host's"
            )
        self._process = ProcessMemory(self._monitor.peer_pid, admit)
        self._pagemap, self._memory = self._process.open_memory()

    def _found(self, small: list[RamBlock], carried: Collection[str]) -> list[RamBlock]:
        assert self._process is not None
        name = self._monitor.name
        mappings = self._process.mappings()
        known, address = self._one_of_guest_ram(carried)
        wanted = [known, *small]
        if not all(each.address for each in wanted):
            places = self._places(mappings, wanted, address)
            wanted = [each._replace(address=places.get(each.name, 0)) for each in wanted]
        if wanted[0].address != address:
            raise SourceError(
                f"{name}: RAM block {known.name} is not found where QEMU says that it is: process "
                f"{self._process.pid}, which listens, is not QEMU, or this QEMU is not understood"
            )
        for each in wanted[1:]:
            if not _is_readable(mappings, each):
                raise SourceError(
                    f"{name}: RAM block {each.name} is not found in QEMU's memory, so the VM "
                    "cannot be saved; try a newer QEMU, which says where its blocks are"
                )
        return wanted[1:]

    def _places(
        self, mappings: list[Mapping], wanted: list[RamBlock], address: int
    ) -> dict[str, int]:
        """Where the blocks lie, of which the first one's address is known."""
        where = self._pagemap, self._memory, mappings
        listed = [Listed(each.name, _numbers(each)) for each in self._listed]
        known = Listed(wanted[0].name, _numbers(wanted[0]))
        if places := walk_list(*where, listed, known, address):
            return places
        return find_structures(*where, {each.name: _numbers(each) for each in wanted})

    def _one_of_guest_ram(self, carried: Collection[str]) -> tuple[RamBlock, int]:
        """A block that files hold, and where QEMU's monitor says that it is."""
        blocks = {_plain(each): each for each in self._listed if _plain(each) in carried}
        for each in parse_mtree(human(self._monitor, "info mtree -f")):
            if (block := blocks.get(each.block)) is not None:
                return block, host_address(self._monitor, each.block, each.gpa) - each.offset
        raise SourceError(f"{self._monitor.name}: the memory map shows no RAM block to be saved")

    def _read(self, block: RamBlock, mappings: list[Mapping]) -> SavedBlock:
        if not _is_readable(mappings, block):
            raise SourceError(
                f"{self._monitor.name}: RAM block {block.name} is not where it was; try again"
            )
        begin, end = block.address, block.address + block.used
        runs = []
        for each in mappings:
            low, high = max(begin, each.start), min(end, each.end)
            if low < high:
                runs += [
                    (address - begin, content)
                    for address, content in read_resident(
                        self._pagemap, self._memory, low, high, every=not each.is_anonymous
                    )
                ]
        return SavedBlock(block.name, block.used, tuple(runs))

    def __enter__(self) -> SmallBlocks:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def _numbers(block: RamBlock) -> Numbers:
    return block.offset, block.used, block.size


def _plain(block: RamBlock) -> str:
    """A backend's id; machine types up to 4.0 show its path."""
    return block.name.removeprefix("/objects/")


def _require_small(monitor: QemuMonitor, small: list[RamBlock]) -> None:
    names = [each.name for each in small]
    if len(set(names)) != len(names):
        raise PeerError(f"{monitor.name}: 'info ramblock' lists one name twice")
    if sum(each.used for each in small) > _TOTAL_MAX:
        largest = max(small, key=lambda each: each.used)
        raise SourceError(
            f"{monitor.name}: RAM block {largest.name} ({largest.used >> 20} MiB) is held by no "
            "file and is too large for the device state"
        )
    for each in small:
        if each.used % PAGE_BYTES or each.used > each.size:
            raise PeerError(f"{monitor.name}: RAM block {each.name} has {each.used:#x} bytes")


def _is_readable(mappings: list[Mapping], block: RamBlock) -> bool:
    """Whether all of it is mapped, readable, at its address."""
    at, end = block.address, block.address + block.used
    if not at or at % PAGESIZE:
        return False
    for each in _overlapping(mappings, at, end):
        if each.start > at or not each.is_readable:
            return False
        at = each.end
    return at >= end


def _overlapping(mappings: list[Mapping], begin: int, end: int) -> Iterator[Mapping]:
    return (each for each in mappings if each.start < end and begin < each.end)
