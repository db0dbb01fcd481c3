"""Immutable values that all packages share: what a block is, how many pages are of which kind."""

from __future__ import annotations

from collections.abc import Iterable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Final, Literal, NamedTuple
else:
    from pagecheck.typed import Literal, NamedTuple

Kind = Literal["full", "diff"]
Holes = Literal["trust", "read"]
Access = Literal["auto", "map", "read"]
Format = Literal["auto", "raw"]
Swapped = Literal["leave", "read"]
AnswerKind = Literal["at-rest", "live", "paused"]

# What the source of a running VM begins with, before a colon; behind it comes, but for `pid`, the
# path of the socket that its VMM answers on.
VM_KINDS: Final = ("pid", "qmp", "fc", "ch", "crosvm")


def vm_source(text: str) -> tuple[str, str]:
    """The source of a running VM taken apart: `qmp:/run/vm` is `("qmp", "/run/vm")`.

    Returns:
        One of `VM_KINDS`, and what comes behind the colon; two empty texts for any other source.
    """
    kind, colon, rest = text.partition(":")
    return (kind, rest) if colon and kind in VM_KINDS else ("", "")


def is_vm_source(text: str) -> bool:
    """Whether a source is a running VM."""
    return vm_source(text)[0] != ""


class RamBlock(NamedTuple):
    """One contiguous range of guest RAM.

    Attributes:
        name: its name; for a path the file name.
        size: bytes, a multiple of page_size.
        page_size: bytes per page, a power of two of at least 4096.
        start: byte offset in the backing file of page 0.
    """

    name: str
    size: int
    page_size: int
    start: int = 0

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.size // self.page_size


class Region(NamedTuple):
    """Where a part of a RAM block lies in the guest's physical memory, in vhost-user's terms.

    Attributes:
        guest_phys_addr: guest-physical address of its first byte.
        memory_size: bytes.
        userspace_addr: address in the VMM's own memory; 0 where it is not known.
        mmap_offset: byte offset of its first byte in the backing file.

    Source: QEMU, docs/interop/vhost-user, "Memory regions description".
    """

    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    mmap_offset: int


class Pause(NamedTuple):
    """How a VM was stopped for a scan.

    Attributes:
        seconds: how long we kept it stopped; 0 where another party had stopped it before.
        stood_still: whether guest RAM provably did not change during the scan.
        expired: whether the maximum time passed, so that the VM was resumed before the scan ended.
        stopped_by_us: whether it was running before the scan.
        left_stopped: whether we stopped it and, as requested, left it stopped.
    """

    seconds: float
    stood_still: bool
    expired: bool
    stopped_by_us: bool
    left_stopped: bool = False


class Counts(NamedTuple):
    """Pages by kind; zero + normal + undecided + unchanged = pages.

    Attributes:
        pages: those that were asked for.
        zero: every byte is zero, or the page is a hole.
        hole: zero pages that were not read, since the file never allocated them.
        normal: at least one byte is not zero.
        undecided: not known; to be treated as normal.
        unchanged: holes of a diff snapshot.
        swapped: undecided pages of private RAM that are swapped out, and stay so.
    """

    pages: int = 0
    zero: int = 0
    hole: int = 0
    normal: int = 0
    undecided: int = 0
    unchanged: int = 0
    swapped: int = 0

    @classmethod
    def sum(cls, counts: Iterable[Counts]) -> Counts:
        """Their totals."""
        return cls(*map(sum, zip(cls(), *counts, strict=True)))
