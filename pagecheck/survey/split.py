"""Large memory files cut into pieces, which several processes or machines check at the same time.

A piece is cut by the data in it, not by its length: holes cost no reading. Cuts lie at multiples of
a large power of two, so that every page is in exactly one piece at any page size.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from pagecheck.errors import PagecheckError
from pagecheck.shm import mounts
from pagecheck.shm.extents import by_seeking
from pagecheck.shm.ram import open_source
from pagecheck.survey.values import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.survey.values import Target

CUT_MAX: Final = 1 << 30  # cuts are multiples of it, which are whole pages of every size in use
CUT_MIN: Final = 2 << 20
SPAN_MAX: Final = 1 << 40  # of a piece: its bitmaps take 64 MiB
# Looking for data costs about a microsecond an extent, in the process that everybody waits for.
LOOKUPS_MAX: Final = 4096  # for a piece


def pieces(target: Target, piece_bytes: int) -> list[Piece]:
    """Cuts a target into pieces with about the same amount of data.

    A file whose extents cannot be known, or not without the risk of waiting for ever, is cut by
    length, and so is an object of a store. A snapshot that `save` made is one piece.

    Args:
        piece_bytes: the most data in a piece, but for what a multiple of a power of two adds.

    Returns:
        Pieces that cover the target in order, each byte once; at least one.
    """
    data = target.size if target.allocated is None else min(target.size, target.allocated)
    if target.kind == "snapshot" or (data <= piece_bytes and target.size <= SPAN_MAX):
        return [Piece(target, 0, target.size)]
    step = _step(piece_bytes)
    length = max(step, piece_bytes // step * step)
    ends = [*_ends_by_data(target, piece_bytes, step)] or [*range(length, target.size, length)]
    starts = [0, *(end for end in ends if end < target.size)]
    return [
        Piece(target, start, end - start)
        for start, end in zip(starts, [*starts[1:], target.size], strict=True)
    ]


def _step(piece_bytes: int) -> int:
    """The power of two whose multiples cuts are."""
    return min(CUT_MAX, max(CUT_MIN, 1 << (piece_bytes.bit_length() - 1)))


def _ends_by_data(target: Target, piece_bytes: int, step: int) -> Iterator[int]:
    """Where pieces end, but for the last; none where the file's extents are not known."""
    if target.kind != "file" or mounts.may_stall(target.path) is not None:
        return
    with contextlib.suppress(PagecheckError, OSError), open_source(target.path, "raw") as source:
        if not source.holes_are_proof:
            return
        end = 0
        while end < target.size:
            end = _end(source.fd, end, target.size, piece_bytes, step)
            yield end


def _end(fd: int, start: int, size: int, piece_bytes: int, step: int) -> int:
    """Where a piece ends that starts here: with enough data, or after so many lookups as if all
    that follows were data."""
    most = min(size, start + SPAN_MAX)
    room = piece_bytes
    for lookups, (begin, end) in enumerate(by_seeking(fd, start, most)):
        if end - begin >= room or lookups == LOOKUPS_MAX:
            return min(most, -(-(begin + room) // step) * step)
        room -= end - begin
    return most
