"""How much guest RAM a VM has, and how it is backed: by its command line and its mappings.

Facts: smaps walks the page tables of everything that is mapped, while the VMM cannot change its
mappings. Decision: a list of VMs reads maps alone, in which the device tells huge pages.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pagecheck.errors import SourceError
from pagecheck.shm import mounts
from pagecheck.vmm.find.considered import LEAST_BYTES
from pagecheck.vmm.find.search import Search
from pagecheck.vmm.find.shared import Block, shared_blocks
from pagecheck.vmm.options.ram_options import CommandLine, RamOption
from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.memory import ProcessMemory
from pagecheck.vmm.process.proof import file_system_type

SHARED: Final = "shared"
PRIVATE: Final = "private"
HUGETLB: Final = "hugetlb"
MIXED: Final = "mixed"

_OF_RAM: Final = (None, "tmpfs", "hugetlbfs")  # None: mounted nowhere, as a memfd is


class Ram:
    """The guest RAM of one process.

    Attributes:
        size: bytes; None where that is not known.
        backing: SHARED, PRIVATE, HUGETLB, MIXED; None where that is not known.
        has_private: whether some of it may be private, so that reading it takes more rights.
    """

    def __init__(self, size: int | None, kinds: Iterable[str], *, has_private: bool) -> None:
        found = set(kinds)
        self.size = size
        self.backing = MIXED if len(found) > 1 else next(iter(found), None)
        self.has_private = has_private


def ram_as_started(said: CommandLine) -> Ram:
    """What a command line says of RAM, where mappings cannot be seen."""
    kinds = [
        SHARED if each.is_shared else PRIVATE for each in said.ram if each.is_shared is not None
    ]
    private = not said.ram or not all(each.is_shared for each in said.ram)
    return Ram(said.ram_bytes or None, kinds, has_private=private)


def ram_of(process: ProcessMemory, said: CommandLine) -> Ram:
    """The guest RAM of a process.

    Raises:
        SourceError: its mappings cannot be seen, or it ended.
    """
    mappings = process.mappings()
    huge = _HugePages(process.folder)
    shared = shared_blocks(mappings)
    if said.ram and said.is_default and not any(each.size == said.ram[0].size for each in mappings):
        said = said._replace(ram=())  # another machine's default, or it has none
    if said.ram:
        blocks = [_find(each, shared, mappings, huge) for each in said.ram]
        is_private = any(private for _, private in blocks)
        return Ram(said.ram_bytes, (kind for kind, _ in blocks), has_private=is_private)
    visible = [each for each in shared if each.size >= LEAST_BYTES and _is_ram(each, process)]
    if not visible:
        return _private(mappings, said, huge)
    kinds = [HUGETLB if huge.has(each.mapping) else SHARED for each in visible]
    return Ram(sum(each.size for each in visible), kinds, has_private=False)


def _private(mappings: list[Mapping], said: CommandLine, huge: _HugePages) -> Ram:
    """RAM of which nothing is said, and that is not shared: as a scan finds it, without the flags
    that smaps has."""
    try:
        blocks = Search("", said, [(each, ()) for each in mappings], {}).find().blocks
    except SourceError:
        return Ram(None, (), has_private=True)
    starts = {each.base for each in blocks}
    there = [each for each in mappings if each.start in starts]
    kinds = [HUGETLB if huge.has(each) else PRIVATE for each in there]
    return Ram(sum(each.size for each in blocks) or None, kinds, has_private=True)


def _find(
    wanted: RamOption, shared: list[Block], mappings: list[Mapping], huge: _HugePages
) -> tuple[str, bool]:
    """How a RAM block is backed, and whether it is private."""
    if wanted.is_shared is not False:
        for each in shared:
            if each.size == wanted.size or (wanted.is_shared and each.size >= LEAST_BYTES):
                return (HUGETLB if huge.has(each.mapping) else SHARED), False
        if wanted.is_shared:
            return SHARED, False
    for mapping in mappings:
        if not mapping.is_shared and mapping.is_writable and huge.has(mapping, wanted.size):
            return HUGETLB, True
    return PRIVATE, True


def _is_ram(block: Block, process: ProcessMemory) -> bool:
    return file_system_type(block.mapping.dev, process.folder) in _OF_RAM


class _HugePages:
    """Which mappings have huge pages of hugetlbfs."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._devices = {device: page for device, page in mounts.memory_devices() if page}

    def has(self, mapping: Mapping, size: int = 0) -> bool:
        """Whether a mapping has; with a size, whether it is also what that size becomes in such
        pages."""
        if not mapping.inode:
            return False
        page = self._devices.get(mapping.dev)
        if page is None:
            is_mounted = file_system_type(mapping.dev, self._folder) == "hugetlbfs"
            page = self._devices[mapping.dev] = 1 if is_mounted else 0
        return page > 0 and (not size or 0 <= mapping.size - size < max(page, 1 << 30))
