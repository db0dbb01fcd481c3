"""Which colour a cell has.

The rule: the highest tier that is in the cell decides, however few pages are of it; of that tier
the state with the most pages gives the hue, and the share of the tier's pages the shade: few (up
to a sixteenth), some (up to half), most. So a cell looks like plain zero only if every page of it
is zero.

The hues differ for eyes without red, green or blue cones, too, and the shades by their lightness;
`tests/picture/test_picture_palette.py` computes both.
"""

from __future__ import annotations

from collections.abc import Sequence

from pagecheck.picture.states import PAGES, State

TYPE_CHECKING = False  # type checkers take it for true; a service loads this beside its requests
if TYPE_CHECKING:
    from typing import Final

STEPS: Final = 3
STEP_WORDS: Final = ("few", "some", "most")
FEW: Final = 16  # up to one page in so many
SOME: Final = 2


def look(counts: Sequence[int], states: Sequence[State] = PAGES) -> tuple[int, int] | None:
    """How a cell looks.

    Args:
        counts: its pages of each state.

    Returns:
        The number of the state whose hue it has, and 0, 1 or 2 for few, some and most; None for a
        cell without pages.
    """
    tier = max((s.tier for s, n in zip(states, counts, strict=True) if n), default=None)
    if tier is None:
        return None
    of_it = [n if s.tier == tier else -1 for s, n in zip(states, counts, strict=True)]
    loud = sum(n for n in of_it if n > 0)
    pages = sum(counts)
    return of_it.index(max(of_it)), (loud * FEW > pages) + (loud * SOME > pages)


def cell_colour(
    counts: Sequence[int], states: Sequence[State] = PAGES, *, dark: bool = False
) -> str | None:
    """The colour of a cell, "#rrggbb"; None for one without pages.

    Args:
        counts: its pages of each state.
    """
    found = look(counts, states)
    if found is None:
        return None
    state, step = found
    return (states[state].dark if dark else states[state].light)[step]
