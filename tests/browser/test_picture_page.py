"""The page of `pagecheck picture` in a browser: under the pointer is what is in the memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from pagecheck.model import Counts, RamBlock, Region
from pagecheck.picture.memory import of_report
from pagecheck.picture.page import html
from pagecheck.picture.palette import cell_colour
from pagecheck.picture.states import PAGES
from pagecheck.printable import printable
from pagecheck.report.report import BlockReport, Report
from tests.support.command import pagecheck

PAGE = 4096
CURVE_PAGES = 1024
NAMES = ("hole", "zero", "normal")


def write_ram(path: Path, states: np.ndarray) -> None:
    """A file whose pages are in these states."""
    with open(path, "wb") as file:
        file.truncate(len(states) * PAGE)
        for page in np.flatnonzero(states != NAMES.index("hole")):
            content = bytes(PAGE - 1) + bytes([int(states[page] == NAMES.index("normal"))])
            os.pwrite(file.fileno(), content, int(page) * PAGE)


def made_up(pages: int, seed: int = 1) -> np.ndarray:
    """Runs of any length in every state, and single pages among them."""
    draw = np.random.default_rng(seed)
    states = np.concatenate(
        [np.full(draw.integers(1, 200), draw.integers(len(NAMES))) for _ in range(pages // 20)]
    )[:pages]
    states[draw.integers(0, pages, pages // 100)] = NAMES.index("normal")
    return states


@pytest.fixture(scope="module")
def states() -> np.ndarray:
    return made_up(5000)


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory, states: np.ndarray) -> Path:
    """The page of a file of 5000 pages."""
    folder = tmp_path_factory.mktemp("picture")
    write_ram(folder / "guest.ram", states)
    return drawn(folder / "guest.ram", folder / "map.html")


def drawn(source: Path, page: Path, *options: str) -> Path:
    done = pagecheck("picture", source, "-o", page, *options)
    assert (done.returncode, done.stderr) == (0, "")
    return page


def counts_of(states: np.ndarray, first: int, pages: int) -> list[int]:
    """What numpy counts of each state, in the page's order."""
    part = states[first : first + pages]
    return [
        int((part == NAMES.index(state.name)).sum()) if state.name in NAMES else 0
        for state in PAGES
    ]


def ready(seen):
    """Playwright's page, once the map is drawn."""
    seen.page.evaluate("window.pagecheckPicture.ready")
    return seen.page


def points(page, count: int, seed: int) -> list[tuple[int, int]]:
    """Any points of the map."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    draw = np.random.default_rng(seed)
    xs = draw.uniform(box["x"] + 1, box["x"] + box["width"] - 2, count)
    ys = draw.uniform(box["y"] + 1, min(box["y"] + box["height"], 800) - 2, count)
    return [(int(x), int(y)) for x, y in zip(xs, ys, strict=True)]


UNDER = """([x, y]) => {
    const tip = document.getElementById("tooltip");
    return { found: window.pagecheckPicture.cellAt(x, y), tip: tip.hidden ? null : tip.textContent,
        where: document.getElementById("where").textContent };
}"""
COLOURS = """(places) => {
    const map = document.getElementById("map");
    const pen = new OffscreenCanvas(map.width, map.height)
        .getContext("2d", { willReadFrequently: true });
    pen.drawImage(map, 0, 0);
    const box = map.getBoundingClientRect();
    return places.map(([x, y]) => ({
        counts: window.pagecheckPicture.cellAt(x, y)?.counts,
        colour: "#" + [...pen.getImageData(x - box.left, y - box.top, 1, 1).data].slice(0, 3)
            .map((value) => value.toString(16).padStart(2, "0")).join("") }));
}"""


def check_under_pointer(page, states: np.ndarray, *, dark: bool, seed: int) -> int:
    """Points at cells; what is said of them, and their colours, are what numpy counts."""
    cells = 0
    places = points(page, 20, seed)
    for place in places:
        page.mouse.move(*place)
        under = page.evaluate(UNDER, place)
        found = under["found"]
        if found is None:
            assert under["tip"] is None
            continue
        cells += 1
        assert found["counts"] == counts_of(states, found["first"], found["pages"])
        assert under["where"] == under["tip"] == found["text"]
        assert f"offset {found['first'] * PAGE:#x} " in found["text"]
        assert said_counts(found["text"], found["pages"]) == found["counts"]
    page.mouse.move(1, 1)  # the frame of the cell under the pointer is not its colour
    for each in page.evaluate(COLOURS, places):
        if each["counts"] is not None:
            assert each["colour"] == cell_colour(each["counts"], dark=dark)
    return cells


def said_counts(text: str, pages: int) -> list[int]:
    """The counts that a text about a cell has."""
    held = text.rpartition("): ")[2]
    found = []
    for state in PAGES:
        said = re.search(rf"(?:^|, ){re.escape(state.words)}(?: ([\d,]+))?(?=,|$)", held)
        count = said and (number(said[1]) if said[1] else pages)
        found.append(count or 0)
    return found


def said_pages(text: str) -> tuple[int, int]:
    """The first page of the cell that a text is about, and how many it has."""
    if said := re.search(r"\(page ([\d,]+), ", text):
        return number(said[1]), 1
    said = re.search(r"\(([\d,]+) pages from page ([\d,]+), ", text)
    return number(said[2]), number(said[1])


def number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(("layout", "scheme"), [("hilbert", "light"), ("rows", "dark")])
def test_the_pointer_finds_what_is_there(
    visit, page_path: Path, states: np.ndarray, layout: str, scheme: str
) -> None:
    page = ready(visit(page_path, 900, scheme))
    page.get_by_label("Layout").select_option(layout)
    sizes = []
    for press in range(4):
        cells = check_under_pointer(page, states, dark=scheme == "dark", seed=press)
        assert cells > 5
        sizes.append(page.locator("#scale").text_content())
        page.get_by_role("button", name="Zoom in").click()
    page.evaluate("window.pagecheckPicture.zoomTo(0, 2500)")
    assert page.locator("#scale").text_content().startswith("Each cell is 4 KiB (1 page)")
    assert check_under_pointer(page, states, dark=scheme == "dark", seed=9) > 5
    page.get_by_role("button", name="Dark").click()
    assert check_under_pointer(page, states, dark=scheme != "dark", seed=10) > 5


def test_zooming_out_shows_larger_cells(visit, page_path: Path, states: np.ndarray) -> None:
    page = ready(visit(page_path, 360))
    page.evaluate("window.pagecheckPicture.zoomTo(0, 0)")
    seen = []
    while (level := page.evaluate("window.pagecheckPicture.level")) not in seen[-1:]:
        seen.append(level)
        check_under_pointer(page, states, dark=False, seed=level)
        for _ in range(4):  # the cells get smaller first
            page.get_by_role("button", name="Zoom out").click()
    page.get_by_role("button", name="Whole memory").click()
    assert check_under_pointer(page, states, dark=False, seed=50) > 5


def test_the_curve_visits_every_page_once_and_goes_on_beside(visit, tmp_path: Path) -> None:
    write_ram(tmp_path / "ram", made_up(CURVE_PAGES))
    page = ready(visit(drawn(tmp_path / "ram", tmp_path / "map.html")))
    box = page.locator("#map").bounding_box()
    found = page.evaluate(
        """([left, top, right, bottom]) => {
            const places = [];
            for (let y = top; y < bottom; y += 5) {
                for (let x = left; x < right; x += 5) {
                    const cell = window.pagecheckPicture.cellAt(x, y);
                    if (cell !== null) places.push([cell.first, cell.pages, x, y]);
                }
            }
            return places;
        }""",
        [int(box["x"]), int(box["y"]), int(box["x"] + box["width"]), int(box["y"] + box["height"])],
    )
    places = np.array(found)
    pages = places[0, 1]
    firsts = np.unique(places[:, 0])
    assert (firsts == np.arange(0, CURVE_PAGES, pages)).all()
    middles = np.array([places[places[:, 0] == first, 2:].mean(axis=0) for first in firsts])
    steps = np.abs(np.diff(middles, axis=0)).sum(axis=1)
    assert np.allclose(steps, steps.mean(), rtol=0.4)  # of two cells that only meet at a corner: 2


def test_the_keyboard_finds_what_is_there(visit, page_path: Path, states: np.ndarray) -> None:
    page = ready(visit(page_path))
    where = page.locator("#where")
    page.get_by_role("button", name="Whole memory").press("Enter")
    page.locator("#map").focus()
    page.keyboard.press("Home")
    assert "offset 0x0 " in where.text_content()
    for key in ("ArrowRight", "ArrowDown", "+", "+", "PageDown", "ArrowLeft", "-", "PageUp", "End"):
        page.keyboard.press(key)
        first, pages = said_pages(where.text_content())
        assert said_counts(where.text_content(), pages) == counts_of(states, first, pages), key
    assert first + pages >= len(states)


@pytest.mark.parametrize("layout", ["hilbert", "rows"])
def test_arrows_move_to_the_cell_beside(visit, page_path: Path, layout: str) -> None:
    page = ready(visit(page_path))
    page.get_by_label("Layout").select_option(layout)
    page.evaluate("window.pagecheckPicture.zoomTo(0, 2500)")  # cells of 16 pixels
    box = page.locator("#map").bounding_box()
    x, y = int(box["x"] + box["width"] / 2), int(box["y"] + box["height"] / 2)
    page.mouse.click(x, y)
    for key, (dx, dy) in {
        "ArrowRight": (16, 0),
        "ArrowDown": (16, 16),
        "ArrowLeft": (0, 16),
        "ArrowUp": (0, 0),
    }.items():
        beside = page.evaluate(UNDER, [x + dx, y + dy])["found"]["text"]
        page.keyboard.press(key)
        assert page.locator("#where").text_content() == beside, key


def test_an_address_is_gone_to(visit, page_path: Path, states: np.ndarray) -> None:
    page = ready(visit(page_path))
    address = page.get_by_label("Go to address")
    for wanted in (0, 3210, len(states) - 1):
        address.fill(f"{wanted * PAGE + 5:#x}")
        address.press("Enter")
        first, pages = said_pages(page.locator("#where").text_content())
        assert first <= wanted < first + pages
    address.fill(f"{len(states) * PAGE:#x}")
    address.press("Enter")
    assert page.locator("#where").text_content().startswith("There is no RAM at ")
    address.fill("-1")
    address.press("Enter")
    assert page.locator("#where").text_content().startswith("Write an address")


@pytest.mark.long(but=("360-dark", "1600-light"))
def test_looks_right_everywhere(visit, look, page_path: Path) -> None:
    seen = visit(page_path, *look)
    page = ready(seen)
    seen.shot("picture")
    assert seen.serious() == []
    assert page.evaluate("document.documentElement.scrollWidth") <= look[0]
    assert seen.reached_by_tab() == seen.can_be_used()
    page.get_by_role("button", name="Dark").press("Enter")
    assert seen.serious() == []  # the other theme


def test_the_counts_are_the_files(visit, page_path: Path, states: np.ndarray) -> None:
    page = ready(visit(page_path))
    told = {
        row.locator("th").text_content().strip(): row.locator("td").first.text_content()
        for row in page.locator("#legend tr").all()
    }
    for state, count in zip(PAGES, counts_of(states, 0, len(states)), strict=True):
        words = [text for text in told if text.endswith(state.words)]
        assert [told[text] for text in words] in ([f"{count:,}"], [] if not count else None)


@pytest.mark.parametrize("layout", ["hilbert", "rows"])
def test_addresses_are_the_guests_where_they_are_known(visit, tmp_path: Path, layout: str) -> None:
    """A block of which a part lies below a hole of the guest's address space, the rest above."""
    below, pages, above = 500, 2000, 1 << 32
    regions = (
        Region(0, below * PAGE, 0, 0),
        Region(above, (pages - below) * PAGE, 0, below * PAGE),
    )
    normal = memoryview(b"\xff" * (-(-pages // 64) * 8 - 8) + bytes(8))
    zero = memoryview(bytes(len(normal)))
    block = BlockReport(RamBlock("pc.ram", pages * PAGE, PAGE), Counts(pages), zero, normal)
    block = block._replace(regions=regions)
    report = Report("qmp:vm", "paused", "cpu", "avx2", 1, PAGE, 1.0, 0.1, 0, (block,))
    (tmp_path / "map.html").write_text(html(of_report(report), layout=layout))
    page = ready(visit(tmp_path / "map.html"))
    seen = 0
    for place in points(page, 30, 1):
        page.mouse.move(*place)
        found = page.evaluate(UNDER, place)["found"]
        if found is None:
            continue
        first = found["first"]
        address = first * PAGE if first < below else above + (first - below) * PAGE
        assert int(found["address"], 16) == address
        assert f"guest-physical {address:#x}" in found["text"]
        seen += 1
    assert seen > 5
    for address, first in ((0, 0), (below * PAGE - 1, below - 1), (above, below)):
        page.get_by_label("Go to address").fill(f"{address:#x}")
        page.get_by_role("button", name="Go", exact=True).click()
        begin, count = said_pages(page.locator("#where").text_content())
        assert begin <= first < begin + count
    page.get_by_label("Go to address").fill(f"{below * PAGE:#x}")
    page.get_by_role("button", name="Go", exact=True).click()
    assert page.locator("#where").text_content() == f"There is no RAM at {below * PAGE:#x} here."


def test_between_two_parts_there_are_no_pages(visit, tmp_path: Path) -> None:
    """So that each cell of the overview has pages of one part, the next part begins later."""
    blocks = []
    for name, pages in (("pc.ram", 20_001), ("rom", 64)):
        zero = memoryview(
            b"\xff" * (pages // 8) + bytes([pages % 8]) + bytes(-(pages // 8 + 1) % 8)
        )
        ram = RamBlock(name, pages * PAGE, PAGE)
        blocks.append(BlockReport(ram, Counts(pages), zero, memoryview(bytes(len(zero)))))
    report = Report("vm", "paused", "cpu", "avx2", 1, PAGE, 1.0, 0.1, 0, tuple(blocks))
    (tmp_path / "map.html").write_text(html(of_report(report)))
    page = ready(visit(tmp_path / "map.html"))
    page.locator("#map").focus()
    where = page.locator("#where")
    said = []
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.evaluate("window.pagecheckPicture.zoomTo(0, 20000)")
        assert "pc.ram, offset 0x4e20000 (page 20,000, 4 KiB): zero" in where.text_content()
        page.keyboard.press(key)
        said.append(where.text_content())
    gap = [text for text in said if ": zero" not in text]
    assert gap == ["No pages: between two parts."] * 2


@pytest.mark.parametrize("name", ["<|script><img src=x>", "\u202eb\n\x1b[1m\udcff&lt;"])
def test_hostile_names_are_text(visit, tmp_path: Path, name: str) -> None:
    write_ram(tmp_path / name, made_up(200))
    page = ready(visit(drawn(tmp_path / name, tmp_path / "map.html")))
    page.locator("#map").focus()
    page.keyboard.press("Home")
    for place in ("#where", "h1"):
        assert printable(name) in page.locator(place).text_content()
    assert page.locator("img").count() == 0


def test_what_changed_between_two(visit, tmp_path: Path) -> None:
    before, after = made_up(3000), made_up(3000, seed=2)
    for name, states in (("a", before), ("b", after)):
        write_ram(tmp_path / name, states)
    done = pagecheck(
        "picture", "--compare", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "map.html"
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = visit(tmp_path / "map.html")
    page = ready(seen)
    seen.shot("changes")
    assert seen.serious() == []
    normal = NAMES.index("normal")
    page.evaluate("window.pagecheckPicture.zoomTo(0, 1500)")
    for x, y in points(page, 30, 1):
        page.mouse.move(x, y)
        found = page.evaluate(UNDER, [x, y])["found"]
        if found is None:
            continue
        assert found["pages"] == 1
        was, became = (int(each[found["first"]] == normal) for each in (before, after))
        word = {
            (0, 0): "zero in both",
            (1, 1): "normal in both",
            (0, 1): "became normal",
            (1, 0): "became zero",
        }[was, became]
        assert f": {word}" in found["text"]
