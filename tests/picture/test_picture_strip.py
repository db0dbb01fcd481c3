"""Small pictures: every page is counted once, and a rare page that is not zero is seen."""

import pickle
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pytest

from pagecheck.picture.palette import cell_colour
from pagecheck.picture.small import small_png, small_svg
from pagecheck.picture.states import PAGES, STATES
from pagecheck.picture.strip import Strip
from tests.picture.worlds import HOLE, NORMAL, ZERO, block_of, counted, runs_of_states
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
    assert Strip.from_json(strip.to_json()).__dict__ == strip.__dict__


def test_holes_that_nobody_looked_at_are_counted() -> None:
    states = np.full(1000, HOLE, np.uint8)
    states[300:450] = NORMAL
    strip = Strip(len(states), 10)
    strip.add_holes(0, 300)
    strip.add(block_of(states[300:450]), 300)
    strip.add_holes(450, 550)
    assert strip.cells == counted(states, strip.cell_pages)


def test_a_block_without_a_hole_bitmap_has_zero_pages() -> None:
    states = runs_of_states(500)
    strip = Strip(len(states), 10)
    strip.add(block_of(states)._replace(hole=None))
    assert strip.cells == counted(np.where(states == HOLE, ZERO, states), strip.cell_pages)


def test_the_svg_shows_each_cell_and_escapes_its_label() -> None:
    cells = [[4, 0, 0, 0, 0], [4, 0, 0, 0, 0], [3, 0, 1, 0, 0], [0] * 5, [0, 0, 0, 4, 0]]
    root = ElementTree.fromstring(small_svg(cells, "<a&b>\"'\x1b\udcff", 100, 10))
    space = "{http://www.w3.org/2000/svg}"
    assert root.attrib["aria-label"] == root.findtext(f"{space}title") == "<a&b>\"'\\x1b\\udcff"
    drawn = {path.attrib["fill"]: path.attrib["d"] for path in root.iter(f"{space}path")}
    assert drawn == {
        cell_colour(cells[0]): "M0 0h2v1h-2z",
        cell_colour(cells[2]): "M2 0h1v1h-1z",
        cell_colour(cells[4]): "M4 0h1v1h-1z",
    }
    assert not {"style", "id", "class", "onload"} & {k for e in root.iter() for k in e.attrib}


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
    assert small_svg([], "nothing").count("<path") == 0
