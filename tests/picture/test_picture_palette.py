"""Colours that can be told apart, also by the colour-blind; what a mixed cell looks like."""

import itertools

import pytest

from pagecheck.picture.palette import STEPS, look
from pagecheck.picture.states import CHANGES, CONTENT, PAGES, State

# What a person without one kind of cone sees, of linear RGB.
# Source: Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color
# Vision Deficiency (2009), severity 1.0.
EYES = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
HUES_APART = 19  # CIE 1976 colour difference; 2.3 is just noticeable, side by side
SHADES_APART = 12


def linear(colour: str) -> list[float]:
    """Source: IEC 61966-2-1 (sRGB)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def lab(colour: str, eye: str) -> tuple[float, float, float]:
    seen = [
        min(1.0, max(0.0, sum(a * b for a, b in zip(row, linear(colour), strict=True))))
        for row in EYES[eye]
    ]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.95047, 1.0, 1.08883)
    x, y, z = (
        _root(sum(a * b for a, b in zip(row, seen, strict=True)) / of)
        for row, of in zip(to_xyz, white, strict=True)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _root(value: float) -> float:
    return value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116


def apart(one: str, other: str, eye: str) -> float:
    return sum((a - b) ** 2 for a, b in zip(lab(one, eye), lab(other, eye), strict=True)) ** 0.5


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, contrast ratio."""
    weights = (0.2126, 0.7152, 0.0722)
    dark, light = sorted(
        sum(a * b for a, b in zip(weights, linear(each), strict=True)) for each in (one, other)
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("ground", ["light", "dark"])
@pytest.mark.parametrize("states", [PAGES, CHANGES, CONTENT], ids=["pages", "changes", "content"])
def test_every_eye_can_tell_the_states_apart(
    states: tuple[State, ...], ground: str, eye: str
) -> None:
    for one, other in itertools.combinations(states, 2):
        for a, b in itertools.product(getattr(one, ground), getattr(other, ground)):
            assert apart(a, b, eye) >= HUES_APART, (one.name, other.name, a, b)
    for state in states:
        shades = getattr(state, ground)
        assert len(shades) == STEPS
        for a, b in itertools.pairwise(shades):
            assert a == b or apart(a, b, eye) >= SHADES_APART, (state.name, a, b)


@pytest.mark.parametrize(("ground", "paper"), [("light", "#ffffff"), ("dark", "#14181c")])
@pytest.mark.parametrize("states", [PAGES, CHANGES, CONTENT], ids=["pages", "changes", "content"])
def test_what_is_loud_differs_from_the_ground_and_what_is_quiet(
    states: tuple[State, ...], ground: str, paper: str
) -> None:
    quiet = [getattr(each, ground)[0] for each in states if each.tier == 0]
    for state in states:
        if state.tier == 0:
            continue
        most = getattr(state, ground)[-1]
        assert contrast(most, paper) >= 2.5, state.name
        assert all(contrast(most, each) >= 1.3 for each in quiet), state.name


def test_letters_and_names_are_all_different() -> None:
    for states in (PAGES, CHANGES, CONTENT):
        for member in ("name", "words", "letter"):
            assert len({getattr(each, member) for each in states}) == len(states)


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((0, 0, 0, 0, 0), None),
        ((5, 4, 0, 0, 0), (0, 2)),
        ((4, 5, 0, 0, 0), (1, 2)),
        ((4, 4, 0, 0, 0), (0, 2)),
        ((1 << 40, 0, 1, 0, 0), (2, 0)),
        ((15, 0, 1, 0, 0), (2, 0)),
        ((14, 0, 1, 0, 0), (2, 1)),
        ((8, 0, 8, 0, 0), (2, 1)),
        ((7, 0, 8, 0, 0), (2, 2)),
        ((0, 9, 3, 4, 0), (3, 1)),
        ((0, 0, 1, 1, 9), (2, 1)),
        ((0, 0, 0, 0, 3), (4, 2)),
    ],
)
def test_what_a_cell_looks_like(counts: tuple[int, ...], found: tuple[int, int] | None) -> None:
    assert look(counts) == found


def test_what_changed_decides_before_what_is_the_same() -> None:
    assert look((0, 1000, 0, 1, 0, 0), CHANGES) == (3, 0)
    assert look((1000, 1, 0, 0, 0, 0), CHANGES) == (1, 0)
    assert look((0, 0, 2, 3, 0, 0), CHANGES) == (3, 2)
