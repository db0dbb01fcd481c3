"""The search for private guest RAM among the mappings of a process.

Facts: the command line says how large the RAM blocks are. QEMU marks all of its blocks, video
memory among them, as not to be copied by fork (dc); Cloud Hypervisor and Firecracker map RAM
without reserving swap (nr), and on x86 in two parts where it is larger than what lies below the
hole for devices. Danger: memory of the same size that is not RAM; and the kernel makes one mapping
of neighbours. Decision: an exact size; and the mark: QEMU's always, the others' where several
mappings have the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from pagecheck.errors import SourceError
from pagecheck.vmm.find.considered import (
    NOT_RAM,
    RAM,
    UNKNOWN,
    Considered,
    Row,
    Shared,
    considered,
    is_anonymous,
    pieced_together,
    size_mib,
    stretch_text,
)
from pagecheck.vmm.options.qemu_options import QEMU
from pagecheck.vmm.options.ram_options import CommandLine, RamOption
from pagecheck.vmm.options.vmm_options import CLOUD_HYPERVISOR, CROSVM, FIRECRACKER, VIRTUALBOX
from pagecheck.vmm.ram import UnreadableRam

# Source: ram_block_add() in QEMU's softmmu/physmem.c; MAP_NORESERVE in Firecracker's
# src/vmm/src/vstate/memory.rs and Cloud Hypervisor's vmm/src/memory_manager.rs, which the kernel
# ignores where vm.overcommit_memory is 2.
_MARKS: Final = {
    QEMU: ("dc", "fork does not copy it (dc), as with all of QEMU's RAM blocks"),
    CLOUD_HYPERVISOR: ("nr", "no swap is reserved for it (nr), as for Cloud Hypervisor's RAM"),
    FIRECRACKER: ("nr", "no swap is reserved for it (nr), as for Firecracker's RAM"),
}
# Bytes below the hole for devices, where what is larger is split. Source: arch/src/x86_64 of both;
# Firecracker's hole had 768 MiB, too.
_BELOW_HOLE: Final = {CLOUD_HYPERVISOR: (3 << 30,), FIRECRACKER: (3 << 30, 3328 << 20)}
NEVER_PRIVATE: Final = {
    CROSVM: "crosvm's RAM is shared, and it shares none",
    VIRTUALBOX: "VirtualBox's RAM belongs to its driver, and no other process can read it; "
    "save it with VBoxManage debugvm VM dumpvmcore",
}
PLUGGED_BYTES: Final = 128 << 20  # a DIMM that Linux takes, and more than most video memory
_HUGE_PAGES: Final = (2 << 20, 1 << 30)
_LISTED_MAX: Final = 8


class NoRam(SourceError):
    """A process maps nothing that can be guest RAM."""


class Candidate(NamedTuple):
    """A private RAM block of a process.

    Attributes:
        name: what the VMM calls it; "ram", or "ram-1", "ram-2" by address, where that is not known.
        base: address of its first byte in the process.
        size: bytes.
        why: why it is guest RAM.
    """

    name: str
    base: int
    size: int
    why: tuple[str, ...]


class PrivateRam(NamedTuple):
    """The private guest RAM of a process.

    Attributes:
        blocks: in order of address.
        missing: blocks that the command line names, and that are not found.
        notes: one line each on what a user should know.
    """

    blocks: list[Candidate]
    missing: list[UnreadableRam]
    notes: list[str]


class Search:
    """One search; the arguments are those of `candidates.private_ram`.

    Attributes:
        seen: the mappings that are considered, with what is known of each until now.
    """

    def __init__(
        self, text: str, said: CommandLine, rows: Sequence[Row], shared: Shared | None = None
    ) -> None:
        """Takes all mappings of the process, in order of address, with their flags; without any
        where these were not asked for, and then the size alone counts."""
        self._text = text
        self._said = said
        self._rows = rows
        self._shared = shared or {}
        self._mark, self._marked = _MARKS.get(said.vmm, ("", ""))
        self._wanted = [
            each
            for each in said.ram
            if each.is_shared is False or (each.is_shared is None and not self._shared)
        ]
        self.seen = considered(rows, self._shared, frozenset(each.size for each in self._wanted))
        if said.vmm == QEMU:
            self._leave_out_unmarked()
        self._found = PrivateRam([], [], [])

    def find(self) -> PrivateRam:
        """Finds it, or raises as `candidates.private_ram` does."""
        if self._wanted:
            self._match_all(self._wanted)
            if self._forget_another_default() and not self._shared:
                self._take_unnamed()
        elif not self._shared and not self._said.ram and self._said.vmm not in NEVER_PRIVATE:
            self._take_unnamed()
        self._rest()
        if not self._found.blocks and not self._shared:
            raise self._nothing()
        self._number_names()
        return self._found

    def _forget_another_default(self) -> bool:
        """Does not miss RAM of the VMM's default size, of which another machine or version has
        another; whether it did. What the command line gives a size is missing all the same."""
        missing = self._found.missing
        name = self._said.ram[0].name
        wrong = [each for each in missing if self._said.is_default and each.name == name]
        for each in wrong:
            missing.remove(each)
        return bool(wrong)

    def _leave_out_unmarked(self) -> None:
        for number, each in enumerate(self.seen):
            # QEMU's madvise fails where it names a part of a huge page (ht).
            unmarked = each.flags and not {self._mark, "ht"} & set(each.flags)
            if each.verdict == UNKNOWN and unmarked:
                why = "fork copies it, as none of QEMU's RAM blocks"
                self.seen[number] = each._replace(verdict=NOT_RAM, why=why)

    def _match_all(self, wanted: Sequence[RamOption]) -> None:
        """Finds the blocks that are asked for; the largest first."""
        for size in sorted({each.size for each in wanted}, reverse=True):
            self._match(size, [each for each in wanted if each.size == size])

    def _match(self, size: int, wanted: list[RamOption]) -> None:
        """Finds the blocks of one size."""
        names = " and ".join(each.name for each in wanted)
        fitting = self._of_size(size, len(wanted))
        if not fitting and len(wanted) == 1 and (sides := self._sides(wanted[0])):
            self._match_all(sides)
            return
        stretches = [(each.mapping.start, each.mapping.start + size) for each in fitting]
        how = f"has the {size_mib(size)} of {names}"
        # Also where a mapping fits: RAM of which a part has other flags is not to be missed.
        pieces = pieced_together(self._rows, size, self._mark if self._said.vmm == QEMU else "")
        if not stretches:
            how += ", together with its neighbours"
        stretches += pieces
        if len(stretches) > len(wanted):
            raise self._ambiguous(f"{names} of {size_mib(size)}", stretches)
        for start, end in stretches:
            self._take(wanted[0].name if len(wanted) == 1 else "ram", start, end, how)
        if len(wanted) > 1 and stretches:
            self._found.notes.append(
                f"{self._text}: {names} have one size, and a process id does not show which of the "
                "mappings is which; qmp: shows it"
            )
        self._miss(wanted, len(wanted) - len(stretches))

    def _of_size(self, size: int, most: int) -> list[Considered]:
        """Mappings of a size; those with the VMM's mark where there are more than `most`."""
        possible = self._possible()
        fitting = [each for each in possible if each.mapping.size == size]
        if not fitting:  # in huge pages of hugetlbfs
            rounded = {size + -size % page for page in _HUGE_PAGES}
            huge = [each for each in possible if "ht" in each.flags]
            fitting = [each for each in huge if each.mapping.size in rounded]
        if len(fitting) > most:
            return [each for each in fitting if self._mark in each.flags] or fitting
        return fitting

    def _possible(self) -> list[Considered]:
        return [each for each in self.seen if each.verdict == UNKNOWN]

    def _sides(self, wanted: RamOption) -> list[RamOption]:
        """A block as the two sides of the hole for devices, if both are mappings of their own."""
        for below in _BELOW_HOLE.get(self._said.vmm, ()):
            sizes = (below, wanted.size - below)
            if sizes[1] > 0 and all(self._of_size(size, 2) for size in sizes):
                return [wanted._replace(size=size) for size in sizes]
        return []

    def _take_unnamed(self) -> None:
        """Where no size is known: what alone may be RAM, or the two sides of the hole."""
        possible = self._possible()
        if len(possible) > 1:
            possible = [each for each in possible if self._mark in each.flags] or possible
        if len(possible) == 1 and not self._said.vmm:
            self._doubt([possible[0].mapping[:2]], "may be guest RAM, and nothing says so")
            raise NoRam(
                f"{self._text}: is not a VMM that pagecheck knows, and has no VM of KVM's, so that "
                f"nothing says whether {possible[0].shown} is guest RAM; name it with --range"
            )
        how = "nothing else of 16 MiB or more can be guest RAM"
        if len(possible) == 2 and self._is_one_side(possible):
            how = "the two sides of the hole for devices below 4 GiB"
        elif len(possible) > 1:
            stretches = [(each.mapping.start, each.mapping.end) for each in possible]
            raise self._ambiguous("guest RAM", stretches)
        for each in possible:
            self._take("ram", each.mapping.start, each.mapping.end, how)

    def _is_one_side(self, possible: list[Considered]) -> bool:
        below = _BELOW_HOLE.get(self._said.vmm, ())
        return any(each.mapping.size in below for each in possible)

    def _take(self, name: str, start: int, end: int, how: str) -> None:
        """Takes addresses as a RAM block, and says so of the mappings there."""
        why = [how]
        for number, each in enumerate(self.seen):
            if start <= each.mapping.start < end:
                mark = [self._marked] if self._mark in each.flags else []
                kind = (
                    "private"
                    if is_anonymous(each.mapping)
                    else "private, of a file or in huge pages"
                )
                reasons = [how, kind, *mark]
                why = why if len(why) > len(reasons) else reasons
                self.seen[number] = each._replace(verdict=RAM, why="; ".join(reasons))
        self._found.blocks.append(Candidate(name, start, end - start, tuple(why)))

    def _miss(self, wanted: list[RamOption], count: int) -> None:
        """Says of blocks that they are not there; which of several of one size is not known."""
        for each in wanted[len(wanted) - count :]:
            names = " or ".join(one.name for one in wanted)
            larger = [x for x in self._possible() if x.mapping.size > each.size]
            inside = f"; {larger[0].shown} is larger and may hold it" if larger else ""
            why = (
                f"{self._text}: no private mapping has the {size_mib(each.size)} of {names}"
                f"{inside}; name it with --range START-END"
            )
            name = each.name if count == len(wanted) else names
            self._found.missing.append(UnreadableRam(name, each.size, (), why))

    def _rest(self) -> None:
        """Says of what is left whether it can be RAM that the command line does not name."""
        for number, each in enumerate(self.seen):
            if each.verdict != UNKNOWN:
                continue
            marked = bool(self._mark) and self._mark in each.flags
            if self._said.ram and not marked:
                why = "no size that the command line asks for"
                self.seen[number] = each._replace(verdict=NOT_RAM, why=why)
                continue
            why = "video memory, or RAM that was plugged later" if marked else "nothing names it"
            self.seen[number] = each._replace(why=each.why or why)
            if each.mapping.size >= PLUGGED_BYTES:
                self._found.notes.append(
                    f"{self._text}: {each.shown} is private memory that may be guest RAM ({why}), "
                    "and is left out; --range START-END takes it"
                )

    def _number_names(self) -> None:
        """Gives the second block of a name, in order of address, the name NAME-2."""
        taken = set(self._shared.values())
        self._found.blocks.sort(key=lambda each: each.base)
        for place, each in enumerate(self._found.blocks):
            name, number = each.name, 1
            while name in taken:
                number += 1
                name = f"{each.name}-{number}"
            taken.add(name)
            self._found.blocks[place] = each._replace(name=name)

    def _ambiguous(self, what: str, stretches: Sequence[tuple[int, int]]) -> SourceError:
        self._doubt(stretches, f"one of {len(stretches)} that can be {what}")
        shown = ", ".join(stretch_text(*each) for each in sorted(stretches)[:_LISTED_MAX])
        more = len(stretches) - _LISTED_MAX
        shown += f" and {more} more" if more > 0 else ""
        by_qmp = ", or give qmp:SOCKET" if self._said.vmm == QEMU else ""
        return SourceError(
            f"{self._text}: {len(stretches)} mappings can be {what}, and nothing tells them apart: "
            f"{shown}; name one with --range START-END{by_qmp}"
        )

    def _doubt(self, stretches: Sequence[tuple[int, int]], why: str) -> None:
        for number, each in enumerate(self.seen):
            if any(start <= each.mapping.start < end for start, end in stretches):
                self.seen[number] = each._replace(why=why)

    def _nothing(self) -> NoRam:
        if self._found.missing:
            return NoRam(self._found.missing[0].why)
        why = NEVER_PRIVATE.get(self._said.vmm)
        if why is None and self._said.ram and not self._wanted:
            why = "is to have shared RAM, and maps none of tmpfs, a memfd or hugetlbfs"
        elif why is None:
            why = "maps no memory of 16 MiB or more that could be guest RAM; "
            known = bool(self._mark)
            why += "its VM may not have been started" if known else "give the pid of the VMM itself"
        return NoRam(f"{self._text}: {why}")
