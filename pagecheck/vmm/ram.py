"""What every source of a running VM gives: its RAM blocks, and what a pause was."""

from __future__ import annotations

from typing import NamedTuple

from pagecheck.model import Region
from pagecheck.shm.process_ram import ProcessRam
from pagecheck.shm.ram import RamSource


class GuestRam(NamedTuple):
    """One RAM block of a running VM.

    Attributes:
        source: its file, open and read-only, or the memory of the process whose private RAM it is;
            the caller's to close.
        start: byte offset of the block in the file; 0 for private RAM.
        size: bytes.
        regions: where its parts lie in guest-physical memory; empty where that is not known.
    """

    source: RamSource | ProcessRam
    start: int
    size: int
    regions: tuple[Region, ...]


class UnreadableRam(NamedTuple):
    """A RAM block of a running VM that cannot be read: all of its pages are undecided.

    Attributes:
        name: as a `RamSource`'s.
        size: bytes.
        regions: as a `GuestRam`'s; their `mmap_offset` is in the block.
        why: the reason and what to do, on one line.
    """

    name: str
    size: int
    regions: tuple[Region, ...]
    why: str


class VmRam(NamedTuple):
    """The RAM of a running VM, as it was found.

    Attributes:
        rams: the blocks that can be read; at least one.
        unreadable: the blocks that cannot.
        notes: one line each on what a user should know.
    """

    rams: list[GuestRam]
    unreadable: list[UnreadableRam]
    notes: list[str]


class PauseResult(NamedTuple):
    """What a pause was, from `pause` until `resume`.

    Attributes:
        paused_ns: how long we held the VM; 0 where it was stopped before.
        stood_still: whether guest RAM was provably unchanged all the time.
        expired: whether the longest time passed and the VM was continued early.
        stopped_by_us: whether it was running before, so that we stopped it.
        left_stopped: whether we stopped it and left it so, as we were asked to.
    """

    paused_ns: int
    stood_still: bool
    expired: bool
    stopped_by_us: bool
    left_stopped: bool = False


class PunchResult(NamedTuple):
    """What became of some ranges of a paused VM's RAM that were to be punched.

    Attributes:
        still: whether the VM was still; else nothing was done.
        zero_bytes: what is a hole now.
        errno: of what failed; 0: nothing did.
    """

    still: bool
    zero_bytes: int
    errno: int
