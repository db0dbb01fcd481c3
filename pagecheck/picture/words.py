"""What stands around a picture: titles, addresses, the legend's words; the same in every form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pagecheck.picture.states import CHANGED
from pagecheck.printable import printable

if TYPE_CHECKING:
    from pagecheck.picture.cells import Cells
    from pagecheck.picture.layout import Layout
    from pagecheck.picture.memory import Memory, Span

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(size: int) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    unit = 0
    while size >= 1024 << (10 * unit) and unit < len(_UNITS) - 1:
        unit += 1
    exact = size % (1 << (10 * unit)) == 0
    return f"{size / (1 << (10 * unit)):.{0 if exact else 1}f} {_UNITS[unit]}"


def pages_text(count: int) -> str:
    """How many pages."""
    return f"{count:,} page{'' if count == 1 else 's'}"


def title(memory: Memory) -> str:
    """What is shown, and how large it is."""
    pages = sum(each.pages for each in memory.blocks)
    size = size_text(pages * memory.page_size)
    return f"{printable(memory.title, 120)}: {size}, {pages_text(pages)}"


def scale(cells: Cells, layout: Layout) -> str:
    """What a cell is, and how the cells follow each other."""
    size = cells.memory.page_size
    text = f"each cell {size_text(cells.cell_pages * size)} ({pages_text(cells.cell_pages)})"
    if layout.name == "hilbert":
        return f"{text}, along a Hilbert curve from the top left"
    return f"{text}, each row {size_text(layout.width * cells.cell_pages * size)}"


def rule(memory: Memory, *, in_print: bool = False) -> str:
    """How a cell with pages of several states looks."""
    what = "changed" if any(each.tier == CHANGED for each in memory.states) else "is not zero"
    if in_print:
        return (
            f"A cell shows what {what} in it, however few pages that is; a black bar is as high as "
            "the share of its pages."
        )
    return (
        f"A cell has the colour of what {what} in it, however few pages that is. Shades: up to a "
        "sixteenth of its pages, up to half, more."
    )


def axis(memory: Memory) -> str:
    """What the numbers at the axes are."""
    known = [each.address is not None for each in memory.spans]
    if all(known):
        return "guest-physical addresses"
    return "guest-physical addresses, then offsets in blocks" if any(known) else "offsets in blocks"


def address(memory: Memory, span: Span, page: int) -> str:
    """The address of a page of a span, in hex: guest-physical, or the offset in its block."""
    offset = (span.first + page) * memory.page_size
    if span.address is not None:
        return f"{span.address + page * memory.page_size:#x}"
    # Beside offsets in other blocks, or guest-physical addresses, it says which block's it is.
    alone = len(memory.blocks) == 1 and all(each.address is None for each in memory.spans)
    name = "" if alone else f"{printable(memory.blocks[span.block].name, 24)}+"
    return f"{name}{offset:#x}"


def span_text(memory: Memory, span: Span) -> str:
    """A span in words: its block, where it begins and ends."""
    name = printable(memory.blocks[span.block].name, 40)
    size = span.pages * memory.page_size
    if span.address is not None:
        return f"{name}: {span.address:#x} to {span.address + size - 1:#x} ({size_text(size)})"
    offset = span.first * memory.page_size
    return f"{name}: offset {offset:#x} to {offset + size - 1:#x} ({size_text(size)})"


def share(count: int, pages: int) -> str:
    """A count as a share, never rounded to 0 or 100 % where it is neither."""
    if count in (0, pages):
        return f"{100 * count // max(pages, 1)} %"
    if 1000 * count < pages:
        return "under 0.1 %"
    if 1000 * (pages - count) < pages:
        return "over 99.9 %"
    return f"{100 * count / pages:.1f} %"


def counts(memory: Memory) -> dict[int, str]:
    """How many pages are of each state that there is, by its number."""
    numbers = memory.counts
    pages = sum(numbers)
    return {
        state: f"{memory.states[state].words}: {pages_text(found)}, {share(found, pages)}"
        for state, found in enumerate(numbers)
        if found
    }
