"""Small pictures: every page is counted once, and a rare page that is not zero is seen."""

import pickle
from io import BytesIO

import numpy as np
import pytest

from pagecheck.picture.palette import cell_colour
from pagecheck.picture.small import small_png
from pagecheck.picture.states import PAGES, STATES
from pagecheck.picture.strip import Strip
from tests.picture.worlds import HOLE, ZERO, block_of, counted, runs_of_states
from tests.support.needs import needs_library


@pytest.mark.parametrize("diff", [False, True])
@pytest.mark.parametrize("pages", [1, 63, 64, 65, 1000, 4096, 100_003])
def test_each_cell_has_the_pages_of_each_state(pages: int, diff: bool) -> None:
    states = runs_of_states(pages, seed=pages, diff=diff)
    strip = Strip(pages, 128)
    strip.add(block_of(states, diff=diff))
    assert len(strip.cells) <= 128
    assert strip.cells == counted(states, strip.cell_pages)


def test_pieces_checked_apart_add_up() -> None:
    states = runs_of_states(10_000)
    strip = Strip(len(states), 50)
    for first in range(0, len(states), 999):
        piece = Strip(len(states), 50)
        piece.add(block_of(states[first : first + 999]), first)
        strip.join(pickle.loads(pickle.dumps(piece)))
    assert strip.cells == counted(states, strip.cell_pages)


def test_a_block_without_a_hole_bitmap_has_zero_pages() -> None:
    states = runs_of_states(500)
    strip = Strip(len(states), 10)
    strip.add(block_of(states)._replace(hole=None))
    assert strip.cells == counted(np.where(states == HOLE, ZERO, states), strip.cell_pages)


@pytest.mark.parametrize("width", [1, 7, 64, 256])
def test_the_png_is_of_the_cells(width: int) -> None:
    needs_library("PIL", "picture")
    from PIL import Image

    states = runs_of_states(5000)
    strip = Strip(len(states), 64)
    strip.add(block_of(states))
    cells = strip.cells
    picture = Image.open(BytesIO(small_png(cells, width, 9))).convert("RGB")
    assert picture.size == (width, 9)
    for x in range(width):
        if width >= len(cells):
            cell = cells[x * len(cells) // width]
        else:
            several = cells[x * len(cells) // width : (x + 1) * len(cells) // width]
            cell = np.sum(several, axis=0).tolist()
        pixels = {f"#{bytes(picture.getpixel((x, y))).hex()}" for y in (0, 8)}
        assert pixels == {cell_colour(cell)}


def test_one_page_that_is_not_zero_is_seen_among_millions() -> None:
    rare = [1 << 28, 0, 0, 0, 0]
    for state in ("normal", "undecided"):
        number = STATES.index(state)
        rare[number] = 1
        assert cell_colour(rare) == PAGES[number].light[0]
        rare[number] = 0
    assert cell_colour(rare) == PAGES[ZERO].light[0]
