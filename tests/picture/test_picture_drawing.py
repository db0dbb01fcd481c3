"""PNGs, read again by Pillow: the map's pixels are those of the cells."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest

from pagecheck.errors import UsageError
from pagecheck.model import Region
from pagecheck.picture import raster
from pagecheck.picture.cells import Cells, cells_of
from pagecheck.picture.drawing import labels_of, png
from pagecheck.picture.layout import LAYOUTS, laid_out
from pagecheck.picture.memory import Memory, of_report
from pagecheck.picture.palette import cell_colour, look
from pagecheck.picture.states import CHANGES, CONTENT, PAGES
from tests.picture.worlds import NORMAL, PAGE, ZERO, block_of, report_of, runs_of_states
from tests.support.needs import needs_library


def read(data: bytes) -> Any:
    from PIL import Image

    image = Image.open(BytesIO(data))
    assert image.format == "PNG"
    assert image.text["Software"] == "pagecheck picture"
    return np.asarray(image.convert("RGB"))


def two_parts() -> Memory:
    regions = (Region(0x1000, 700 * PAGE, 0, 0), Region(1 << 32, 300 * PAGE, 0, 700 * PAGE))
    states, more = runs_of_states(1000), runs_of_states(50, seed=2)
    return of_report(report_of(block_of(states, "pc.ram", regions), block_of(more, "rom")))


def find(image: Any, part: Any) -> tuple[int, int]:
    """Where a part is in an image, exactly."""
    height, width = part.shape[:2]
    for y, row in enumerate(image):
        x = row.tobytes().find(part[0].tobytes()) // 3
        if x >= 0 and (image[y : y + height, x : x + width] == part).all():
            return x, y
    raise AssertionError("the map is not there")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_map_is_in_the_png_pixel_by_pixel(name: Any, dark: bool) -> None:
    needs_library("PIL", "picture")
    cells = cells_of(two_parts(), 600)
    layout = laid_out(cells, name)
    image = read(png(cells, layout, dark=dark))
    scale = 1024 // max(layout.width, layout.height)
    ground = "#14181c" if dark else "#ffffff"
    expected = np.empty((layout.height * scale, layout.width * scale, 3), np.uint8)
    expected[:] = list(bytes.fromhex(ground[1:]))
    for x, y, counts in zip(layout.x, layout.y, cells.counts.tolist(), strict=True):
        colour = cell_colour(counts, dark=dark)
        part = expected[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale]
        part[:] = list(bytes.fromhex(colour[1:]))
    x, y = find(image, expected)
    assert x > 0
    assert y > 0


def tile_of(counts: list[int]) -> Any:
    state, _step = look(counts)
    tier = PAGES[state].tier
    of_it = sum(n for n, s in zip(counts, PAGES, strict=True) if s.tier == tier)
    return raster.tile(PAGES[state].pattern, max(1, of_it * raster.TILE // sum(counts)))


@pytest.mark.parametrize("most", [200, 10])
@pytest.mark.parametrize("name", LAYOUTS)
def test_in_print_each_cell_is_a_pattern(name: Any, most: int) -> None:
    needs_library("PIL", "picture")
    memory = two_parts()
    if most == 10:  # one page in a cell of many: less than a pixel's share
        states = np.zeros(1000, np.uint8)
        states[700] = NORMAL
        memory = of_report(report_of(block_of(states)))
    cells = cells_of(memory, most)
    layout = laid_out(cells, name)
    image = read(png(cells, layout, in_print=True))
    assert (image == image[:, :, :1]).all()
    size = raster.TILE
    expected = np.full((layout.height * size, layout.width * size), 255, np.uint8)
    for x, y, counts in zip(layout.x, layout.y, cells.counts.tolist(), strict=True):
        expected[y * size : (y + 1) * size, x * size : (x + 1) * size] = tile_of(counts)
    find(image, np.repeat(expected[:, :, None], 3, axis=2))


def test_patterns_differ_and_one_page_in_print_is_seen() -> None:
    for states in (PAGES, CHANGES, CONTENT):
        tiles = [raster.tile(each.pattern).tobytes() for each in states]
        assert len(set(tiles)) == len(states)
    states = np.zeros(1 << 16, np.uint8)
    states[12345] = NORMAL
    (rare,) = cells_of(of_report(report_of(block_of(states))), 1).counts.tolist()
    zero = raster.tile(PAGES[ZERO].pattern)
    assert (tile_of(rare) != zero).sum() == raster.TILE


def addresses(cells: Cells, name: Any, scale: int) -> dict[tuple[str, int], str]:
    layout = laid_out(cells, name)
    return {(each.edge, each.at): each.text for each in labels_of(cells, layout, scale)}


def test_the_addresses_of_rows_are_those_of_their_first_pages() -> None:
    cells = cells_of(two_parts(), 2000)
    assert cells.cell_pages == 1
    layout = laid_out(cells, "rows")
    assert layout.width == 64
    labels = addresses(cells, "rows", 20)
    assert labels[("left", 0)] == "0x1000"
    assert labels[("left", 1)] == hex(64 * PAGE)  # the first page is in the second column
    assert (layout.x[0], layout.x[63], layout.y[63]) == (1, 0, 1)
    assert labels[("left", 11)] == hex(1 << 32)
    assert labels[("left", 16)] == "rom+0x0"
    assert labels[("right", 0)] == labels[("right", 11)] == "pc.ram"
    assert labels[("right", 16)] == "rom"
    few = addresses(cells, "rows", 2)
    assert few.items() <= labels.items()
    # Where there is no room for each row: 16 rows apart, and where spans begin.
    assert sorted(few) == [("left", 0), ("left", 11), ("right", 0), ("right", 11)]


def test_the_addresses_at_a_curve_are_where_it_enters_squares() -> None:
    states = runs_of_states(1 << 12)
    cells = cells_of(of_report(report_of(block_of(states))), 1 << 12)
    layout = laid_out(cells, "hilbert")
    labels = addresses(cells, "hilbert", 16)
    assert len(labels) == 28  # all around, 8 squares each way
    for (edge, at), text in labels.items():
        column, row = {"left": (0, at), "right": (56, at), "top": (at, 0), "bottom": (at, 56)}[edge]
        inside = (layout.x // 8 == column // 8) & (layout.y // 8 == row // 8)
        assert text == hex(int(np.flatnonzero(inside)[0]) * PAGE)


def test_without_pillow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    cells = cells_of(two_parts(), 10)
    with pytest.raises(UsageError, match=r"pip install 'pagecheck\[picture\]'"):
        png(cells, laid_out(cells, "rows"))
