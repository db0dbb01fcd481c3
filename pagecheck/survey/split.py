"""Large files in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pagecheck.survey.values import Piece

if TYPE_CHECKING:
    from pagecheck.survey.values import Target

ALIGNMENT: Final = 2 << 20  # the largest usual page


def pieces(target: Target, piece_bytes: int) -> list[Piece]:
    """The pieces that a target is checked in, which cover it exactly; at least one.

    Args:
        piece_bytes: about how large they are.
    """
    if target.kind == "snapshot" or target.size <= piece_bytes:
        return [Piece(target, 0, target.size)]
    step = max(piece_bytes // ALIGNMENT, 1) * ALIGNMENT
    return [
        Piece(target, start, min(step, target.size - start))
        for start in range(0, target.size, step)
    ]
