"""What a cell of a picture can hold: the states of pages, or what became of them between two.

A picture shows runs of pages as cells. Danger: a rare page that is not zero in a cell of millions
that are; who plans what to leave out must see it. Decision: states have tiers, and a cell has the
colour of the highest tier that is in it, however rare; `palette.py` has the rule.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; a service loads this beside its requests
if TYPE_CHECKING:
    from typing import Final, NamedTuple
else:
    from pagecheck.typed import NamedTuple

QUIET: Final = 0
LOUD: Final = 1
CHANGED: Final = 2

Shades = tuple[str, str, str]


class State(NamedTuple):
    """A state of pages.

    Attributes:
        name: in JSON and in HTML.
        words: in a legend.
        tier: `QUIET`: reads as zero or as before; `LOUD`: has or may have content; `CHANGED`.
        light: colours on a light ground, where few, some and most of a cell's pages are of its
            tier: "#rrggbb".
        dark: the same on a dark ground.
        letter: where there are no colours; a capital.
        pattern: in print, one of `raster.PATTERNS`.
    """

    name: str
    words: str
    tier: int
    light: Shades
    dark: Shades
    letter: str
    pattern: str


def _one(colour: str) -> Shades:
    return colour, colour, colour


_ORANGE: Final = (("#f3b98c", "#e6873f", "#d55e00"), ("#8a5527", "#c47a34", "#ff9a3c"))

# Of one memory. What is in none of its bitmaps is undecided.
PAGES: Final = (
    State("zero", "zero", QUIET, _one("#8fc1e3"), _one("#2a6f9e"), "0", "tint"),
    State(
        "hole",
        "hole (zero, not allocated)",
        QUIET,
        _one("#e3e8ec"),
        _one("#2c343b"),
        ".",
        "blank",
    ),
    State("normal", "normal", LOUD, *_ORANGE, "N", "bar"),
    State(
        "undecided",
        "undecided (to be treated as normal)",
        LOUD,
        ("#7d5fa8", "#5d3f93", "#3a1a6b"),
        ("#aaa6b8", "#cfcadd", "#f6f2ff"),
        "?",
        "hatch",
    ),
    State(
        "unchanged",
        "unchanged (not in the diff)",
        QUIET,
        _one("#9c9c94"),
        _one("#767670"),
        "=",
        "lines",
    ),
)

# Of two memories, one before the other. What is in none of their bitmaps is undecided.
CHANGES: Final = (
    State("zero_in_both", "zero in both", QUIET, _one("#e3e8ec"), _one("#2c343b"), ".", "blank"),
    State(
        "normal_in_both",
        "normal in both (content not compared)",
        LOUD,
        _one("#a3a39b"),
        _one("#767670"),
        "N",
        "tint",
    ),
    State("became_normal", "became normal", CHANGED, *_ORANGE, "+", "bar"),
    State(
        "became_zero",
        "became zero",
        CHANGED,
        ("#7fb6dd", "#3f8fc8", "#0062a8"),
        ("#1d5a8a", "#2f82c0", "#55b4ff"),
        "-",
        "box",
    ),
    State(
        "undecided",
        "undecided in one of the two",
        LOUD,
        _one("#3a1a6b"),
        _one("#f6f2ff"),
        "?",
        "hatch",
    ),
    State(
        "in_one_only",
        "in one of the two only",
        CHANGED,
        _one("#601818"),
        _one("#a4e8b0"),
        "1",
        "columns",
    ),
)

# The same where what both have was compared.
CONTENT: Final = (
    CHANGES[0],
    State("same", "normal, the same in both", LOUD, _one("#a3a39b"), _one("#767670"), "=", "tint"),
    State(
        "changed",
        "normal in both, changed",
        CHANGED,
        _one("#9911ee"),
        _one("#9911ee"),
        "*",
        "lines",
    ),
    *CHANGES[2:],
)

STATES: Final = tuple(each.name for each in PAGES)
