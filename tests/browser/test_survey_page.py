"""`survey --html` in a browser: sorted, filtered, in pages, printed, by keyboard, hostile names."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pagecheck.model import Counts, RamBlock
from pagecheck.picture.palette import STEPS
from pagecheck.picture.states import PAGES
from pagecheck.picture.strip import Strip
from pagecheck.printable import printable
from pagecheck.report.report import BlockReport
from pagecheck.survey import report
from pagecheck.survey.run import Summary
from pagecheck.survey.strips import LOOKS, picture_of
from pagecheck.survey.tables import save_bytes
from pagecheck.survey.values import Row, row_of_error
from tests.support.command import pagecheck

PAGE = 4096
HOSTILE = [
    "/a/</script><script>document.title = 'taken'</script>",
    "/a/<img src=x onerror=\"document.title = 'taken'\">",
    "/a/&lt;b&gt; \"quoted\" 'twice' `$(reboot)` ${script} $script",
    "/a/line\nfeed\ttab\x1b[31mred\x00nul",
    "/a/\u2028\u2029separators",
    "/a/\u202egnp.ram",
    "/a/bytes-\udcff\udcfe",
    "/a/=cmd|' /C calc'!A0",
    "/a/<!-- ]]> -->",
    "/a/" + "long" * 60,
    "/a/שלום.ram",
]


def row(path: str, pages: int, zero: int, hole: int = 0, undecided: int = 0, **given) -> Row:
    counts = {"pages": pages, "zero": zero, "hole": hole, "undecided": undecided}
    normal = pages - zero - undecided
    made = Row(path, pages * PAGE, None, normal=normal, seconds=0.5, **counts)
    return made._replace(bytes_checked=(pages - hole) * PAGE, **given)


def made_up(files: int) -> list[Row]:
    """Rows with every value different, and a tenth of them with errors or undecided pages."""
    draw = random.Random(files)
    rows = []
    for number in range(files):
        pages = draw.randrange(100, 1_000_000)
        zero = draw.randrange(pages)
        name = f"/snapshots/{draw.choice('abc')}/vm-{number}.ram"
        if number % 20 == 3:
            rows.append(row_of_error(name, f"cannot be read: fault {number}"))
            continue
        rows.append(
            row(
                name,
                pages,
                zero,
                hole=draw.randrange(zero + 1),
                undecided=draw.randrange(pages - zero) if number % 20 == 7 else 0,
                allocated=draw.randrange(pages) * PAGE,
                seconds=draw.random(),
            )
        )
    return rows


def written(folder: Path, rows: list[Row], *, interrupted_by: str | None = None) -> Path:
    """The page of some rows."""
    path = folder / "report.html"
    path.write_text(
        report.page(Summary(tuple(rows), 12.5, "2 channels", 0))
        if interrupted_by is None
        else report.page_of_some(rows, interrupted_by)
    )
    return path


def names(page) -> list[str]:
    """Those of the rows that are shown, from the top."""
    return page.locator("#files tbody th bdi").all_text_contents()


def shown(page) -> str:
    return page.locator("#shown").text_content()


@pytest.mark.long(but=("360-dark", "1600-light"))
def test_looks_right_everywhere(visit, look, tmp_path: Path) -> None:
    rows = [*made_up(30), *(row(name, 64, 32) for name in HOSTILE)]
    rows[0] = rows[0]._replace(picture=picture_of([strip_of(rows[0].pages)]))
    seen = visit(written(tmp_path, rows, interrupted_by="2 channels"), *look)
    seen.shot("report")
    assert seen.serious() == []
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= look[0]
    assert seen.reached_by_tab() == seen.can_be_used()


COLUMNS = {
    "Size": lambda row: row.bytes,
    "Allocated": lambda row: row.allocated,
    "Pages": lambda row: row.pages,
    "Zero": lambda row: row.zero,
    "of which holes": lambda row: row.hole,
    "Normal": lambda row: row.normal,
    "Undecided": lambda row: row.undecided,
    "Zero share": lambda row: row.zero / row.pages,
    "A save would weigh": save_bytes,
    "Time": lambda row: row.seconds,
    "Rate": lambda row: row.bytes_checked / row.seconds,
}


def test_sorts_by_every_column(visit, tmp_path: Path) -> None:
    rows = made_up(60)
    page = visit(written(tmp_path, rows)).page
    by_number = sorted(rows, key=lambda each: int(each.path.split("-")[1][:-4]))
    by_name = [r.path for r in sorted(by_number, key=lambda each: each.path.split("vm")[0])]
    assert names(page) == by_name
    assert {page.locator("#files thead button", has_text=head).count() for head in COLUMNS} >= {1}
    answered = [each for each in rows if each.error is None]
    for head, value in COLUMNS.items():
        button = page.get_by_role("button", name=head, exact=True)
        for order in ("descending", "ascending"):
            button.press("Enter" if order == "ascending" else "Space")
            assert page.locator("[aria-sort]:not([aria-sort=none])").all_text_contents() == [head]
            assert page.locator(f"[aria-sort={order}]").count() == 1
            got = [value(next(r for r in answered if r.path == n)) for n in names(page)[:-3]]
            assert got == sorted(map(value, answered), reverse=order == "descending"), head
            errors = page.locator("#files tbody tr:has(td.error) bdi").all_text_contents()
            assert names(page)[-3:] == errors  # whatever the order


def test_what_grew_can_be_sorted(visit, tmp_path: Path) -> None:
    rows = [row("/a", 64, 32), row("/b", 64, 10), row("/c", 64, 60), row("/new", 64, 0)]
    before = {each.path: row(each.path, 64, 32) for each in rows[:3]}
    path = tmp_path / "report.html"
    path.write_text(report.page(Summary(tuple(rows), 1.0, "1 channel", 0), before))
    page = visit(path).page
    page.get_by_role("button", name="Grew by").press("Enter")
    assert names(page) == ["/b", "/a", "/c", "/new"]
    column = page.locator("#files thead th").all_text_contents().index("Grew by")
    shown = page.locator(f"#files tbody tr > :nth-child({column + 1})").all_text_contents()
    assert shown == ["+88 KiB", "0 B", "\u2212112 KiB", "\u2013"]


def test_a_share_is_never_rounded_to_all_or_nothing(visit, tmp_path: Path) -> None:
    """One page in a million: a save that leaves out everything would destroy a guest."""
    pages = 1 << 20
    strip = strip_of(pages, normal=[5])
    page = visit(written(tmp_path, [row("/a", pages, pages - 1, picture=picture_of([strip]))])).page
    texts = [
        page.locator(where).first.text_content() for where in ("#files tbody", "#totals", "#legend")
    ]
    said = page.locator("#files td svg").get_attribute("aria-label")
    for text in (*texts, said):
        assert "over 99.9 %" in text
        assert "100.0 %" not in text
    for text in (*texts[1:], said):
        assert "under 0.1 %" in text


def test_filters_by_text_and_state(visit, tmp_path: Path) -> None:
    rows = made_up(200)
    page = visit(written(tmp_path, rows)).page
    assert shown(page) == "200 of 200 files; rows 1 to 100 are shown"
    page.get_by_label("Name, note or error contains").fill("/B/vm-1")
    wanted = [each for each in rows if "/b/vm-1" in each.path]
    assert sorted(names(page)) == sorted(each.path for each in wanted)
    assert shown(page) == f"{len(wanted)} of 200 files; rows 1 to {len(wanted)} are shown"
    total = sum(each.pages for each in wanted)
    assert f"{total:,} pages" in page.locator("#totals").text_content()
    page.get_by_label("State").select_option("not answered")
    wanted = [each for each in wanted if each.error is not None]
    assert sorted(names(page)) == sorted(each.path for each in wanted)
    page.get_by_label("Name, note or error contains").fill("fault 43")
    assert names(page) == [rows[43].path]
    page.get_by_role("button", name="Clear filters").click()
    assert shown(page).startswith("200 of 200")
    page.get_by_label("State").select_option("with undecided pages")
    assert sorted(names(page)) == sorted(each.path for each in rows if each.undecided)
    page.get_by_label("State").select_option("every page decided")
    assert shown(page).startswith("180 of 200")
    page.get_by_label("Name, note or error contains").fill("nothing has this name")
    assert shown(page) == "0 of 200 files"


@pytest.mark.long
def test_ten_thousand_rows_stay_usable(visit, tmp_path: Path) -> None:
    rows = made_up(10_000)
    page = visit(written(tmp_path, rows)).page
    assert shown(page) == "10,000 of 10,000 files; rows 1 to 100 are shown"
    assert page.locator("#place").text_content() == "page 1 of 100"
    seen = set(names(page))
    page.get_by_role("button", name="Previous").press("Enter")
    assert set(names(page)) == seen  # there is none before
    assert page.evaluate("document.activeElement.id") == "previous"
    page.get_by_role("button", name="Next").click()
    assert len(seen | set(names(page))) == 200
    page.get_by_role("button", name="Last").click()
    assert shown(page).endswith("rows 9,901 to 10,000 are shown")
    page.get_by_label("Rows on a page").select_option("2000")
    assert len(names(page)) == 2000
    page.get_by_label("Name, note or error contains").fill("vm-9999.")
    assert names(page) == [rows[9999].path]
    assert page.locator("#pages").is_hidden()


def test_prints_every_row_that_was_found(visit, tmp_path: Path) -> None:
    page = visit(written(tmp_path, made_up(300)), scheme="dark").page
    page.get_by_label("State").select_option("every page decided")
    page.evaluate(
        "addEventListener('beforeprint', () => { window.printed = "
        "document.querySelectorAll('#files tbody tr').length })"
    )
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.printed") == 270
    assert len(names(page)) == 100
    page.emulate_media(media="print")
    assert page.get_by_label("State").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_hostile_names_are_text(visit, tmp_path: Path) -> None:
    rows = [row(name, 64, 32) for name in HOSTILE]
    rows += [row_of_error(f"{name} error", name) for name in HOSTILE]
    page = visit(written(tmp_path, rows, interrupted_by=HOSTILE[0])).page
    assert set(names(page)) == {printable(each.path) for each in rows}
    errors = page.locator("#files td.error").all_text_contents()
    assert set(errors) == {f"not answered: {printable(name)}" for name in HOSTILE}
    assert f"with {HOSTILE[0]}" in page.locator("header").text_content()
    assert page.title() == "Survey of memory files"
    assert page.locator("img, body script:not(#data)").count() == 1


def test_a_script_put_into_the_page_does_not_run(visit, tmp_path: Path) -> None:
    path = written(tmp_path, [row("/a", 64, 32)])
    text = path.read_text()
    path.write_text(text.replace("<main>", "<main><script>document.title = 'taken'</script>"))
    seen = visit(path)
    assert seen.page.title() == "Survey of memory files"
    seen.expected_fault("Content Security Policy")


def strip_of(pages: int, normal: Sequence[int] = (), hole: Sequence[int] = ()) -> Strip:
    """The strip of a memory that is zero but for these pages."""
    bits = {}
    for name, chosen in (("normal", normal), ("hole", hole)):
        bits[name] = np.zeros(-(-pages // 64) * 64, bool)
        bits[name][list(chosen)] = True
    bits["zero"] = ~bits["normal"]
    bits["zero"][pages:] = False
    words = {
        name: memoryview(np.packbits(each, bitorder="little").tobytes())
        for name, each in bits.items()
    }
    strip = Strip(pages)
    block = RamBlock("ram", pages * PAGE, PAGE)
    strip.add(BlockReport(block, Counts(pages), **words))
    return strip


def under_pointer(page, picture, places: list[float]) -> list[str]:
    """What is said where the pointer is at these parts of the picture's width."""
    box = picture.bounding_box()
    said = []
    for part in places:
        page.mouse.move(box["x"] + 1 + (box["width"] - 2) * part, box["y"] + 5)
        said.append(picture.locator("title").text_content())
    return said


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_show_where_pages_lie(visit, tmp_path: Path, scheme: str) -> None:
    strip = strip_of(1024, normal=range(256, 512), hole=range(768, 1024))
    rows = [row("/a", 1024, 768, hole=256, picture=picture_of([strip])), row("/b", 64, 64)]
    page = visit(written(tmp_path, rows), scheme=scheme).page
    (picture,) = page.locator("#files td svg").all()
    box = picture.bounding_box()
    colours = page.evaluate(
        "(places) => places.map((at) => getComputedStyle(document.elementFromPoint(...at)).fill)",
        [[box["x"] + box["width"] * eighth / 8, box["y"] + 5] for eighth in (1, 3, 5, 7)],
    )
    of = {state.name: getattr(state, scheme)[-1] for state in PAGES}
    wanted = [of[name] for name in ("zero", "normal", "zero", "hole")]
    assert colours == [f"rgb{tuple(bytes.fromhex(each[1:]))}" for each in wanted]
    assert under_pointer(page, picture, [1 / 8, 3 / 8, 5 / 8, 7 / 8]) == [
        "pages 0 to 255: zero",
        "pages 256 to 511: normal",
        "pages 512 to 767: zero",
        "pages 768 to 1,023: hole (zero, not allocated)",
    ]
    said = picture.get_attribute("aria-label")
    assert said.startswith("zero 50.0 %, hole (zero, not allocated) 25.0 %, normal 25.0 %")


def test_the_command_s_own_page(visit, tmp_path: Path) -> None:
    """Files of hostile names on a real file system, against numpy."""
    folder, wanted = tmp_path / "ram", {}
    folder.mkdir()
    draw = np.random.default_rng(1)
    for name in HOSTILE:
        states = draw.choice(["hole", "zero", "normal"], 96)
        plain = name.removeprefix("/a/").replace("/", "|").replace("\0", "")
        path = os.fsencode(folder) + b"/" + os.fsencode(plain)
        with open(path, "wb") as file:
            file.truncate(len(states) * PAGE)
            for page in np.flatnonzero(states != "hole"):
                content = bytes(PAGE - 1) + bytes([states[page] == "normal"])
                os.pwrite(file.fileno(), content, page * PAGE)
        wanted[printable(os.fsdecode(path))] = states
    done = pagecheck("survey", "--quiet", "--html", tmp_path / "page.html", folder)
    assert (done.returncode, done.stderr) == (0, "")
    page = visit(tmp_path / "page.html").page
    assert set(names(page)) == wanted.keys()
    looks = {f"look-{LOOKS[number * STEPS + 2]}": state.name for number, state in enumerate(PAGES)}
    drawn = page.evaluate(
        """() => [...document.querySelectorAll("#files tbody tr")].map((row) => [
            row.querySelector("bdi").textContent,
            [...row.querySelectorAll("path")].map((each) =>
                [each.getAttribute("class"), each.getAttribute("d")])])"""
    )
    for name, paths in drawn:
        cells = {}
        for look, path in paths:
            for begin, width in re.findall(r"M(\d+) 0h(\d+)v1h-\d+z", path):
                cells |= dict.fromkeys(range(int(begin), int(begin) + int(width)), looks[look])
        assert [cells[cell] for cell in range(len(wanted[name]))] == list(wanted[name])


def test_a_picture_tells_few_pages_from_many(visit, tmp_path: Path) -> None:
    """Cells of 16 pages, the last one shorter: of these 1, 8, 9 pages are normal, and 2 of 4."""
    normal = [16, *range(32, 40), *range(48, 57), 2002, 2003]
    strip = strip_of(2004, normal=normal)
    rows = [row("/a", 2004, 2004 - len(normal), picture=picture_of([strip]))]
    page = visit(written(tmp_path, rows)).page
    middles = [0.5, 1.5, 2.5, 3.5, 60, 125.5]
    picture = page.locator("#files td svg")
    assert under_pointer(page, picture, [each / 126 for each in middles]) == [
        "pages 0 to 15: zero",
        "pages 16 to 31: normal (few of a cell)",
        "pages 32 to 47: normal (some of a cell)",
        "pages 48 to 63: normal",
        "pages 64 to 1,999: zero",
        "pages 2,000 to 2,003: normal (some of a cell)",
    ]


@pytest.mark.parametrize("rows", [[], [row_of_error("/a", "is not there")]], ids=["no", "error"])
def test_surveys_that_found_nothing(visit, tmp_path: Path, rows: list[Row]) -> None:
    page = visit(written(tmp_path, rows)).page
    assert shown(page).startswith(f"{len(rows)} of {len(rows)} files")
    assert "NaN" not in page.locator("body").text_content()
