"""Cells, spans and layouts, compared with numpy page by page."""

import numpy as np
import pytest

from pagecheck.errors import UsageError
from pagecheck.model import Region
from pagecheck.picture import layout, raster
from pagecheck.picture.cells import cells_of
from pagecheck.picture.memory import Memory, Span, compare, of_report, spans_of
from pagecheck.picture.palette import STEPS, look
from pagecheck.picture.states import CHANGES, PAGES
from tests.picture.worlds import (
    HOLE,
    NORMAL,
    PAGE,
    UNDECIDED,
    ZERO,
    States,
    block_of,
    counted,
    report_of,
    runs_of_states,
)

MOST = (1, 2, 10, 100, 1000, 10_000)


@pytest.mark.parametrize("diff", [False, True])
@pytest.mark.parametrize("pages", [1, 7, 8, 63, 65, 1000, 5003])
def test_every_cell_counts_its_pages(pages: int, diff: bool) -> None:
    states = runs_of_states(pages, seed=pages, diff=diff, run=5)
    memory = of_report(report_of(block_of(states, diff=diff)))
    for most in MOST:
        cells = cells_of(memory, most)
        assert cells.counts.tolist() == counted(states, cells.cell_pages)
        assert len(cells.counts) <= most
        assert cells.cell_pages == 1 or -(-pages // (cells.cell_pages // 2)) > most
    assert memory.counts == counted(states, pages)[0]


def test_cells_are_counted_where_numpy_has_no_popcount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    states = runs_of_states(3000)
    cells = cells_of(of_report(report_of(block_of(states))), 50)
    assert cells.counts.tolist() == counted(states, cells.cell_pages)


def test_spans_begin_anywhere_and_each_with_a_new_cell() -> None:
    """Regions as a machine has them, out of order, one page a second time, some not seen."""
    states = runs_of_states(1000, run=3)
    regions = (
        Region(0x100000000, 500 * PAGE, 0, 333 * PAGE),
        Region(0, 160 * PAGE, 0, 0),
        Region(0xC0000, 141 * PAGE, 0, 192 * PAGE),
        Region(0x200000000, 200 * PAGE, 0, 100 * PAGE),
    )
    bios = runs_of_states(37, seed=2)
    report = report_of(block_of(states, "pc.ram", regions), block_of(bios, "bios"))
    memory = of_report(report)
    assert memory.spans == (
        Span(0, 0, 160, 0),
        Span(0, 192, 141, 0xC0000),
        Span(0, 333, 500, 0x100000000),
        Span(0, 160, 32, 0x200000000 + 60 * PAGE),
        Span(0, 833, 167, None),
        Span(1, 0, 37, None),
    )
    for most in MOST:
        cells = cells_of(memory, most)
        for span, begin, end in zip(memory.spans, cells.starts, cells.starts[1:], strict=False):
            part = (states, bios)[span.block][span.first : span.first + span.pages]
            assert cells.counts[begin:end].tolist() == counted(part, cells.cell_pages)
    total = np.bincount(np.concatenate([states, bios]), minlength=5).tolist()
    assert memory.counts == cells.counts.sum(axis=0).tolist() == total


@pytest.mark.parametrize("seed", range(20))
def test_every_page_is_in_one_span(seed: int) -> None:
    random = np.random.default_rng(seed)
    pages = [int(n) for n in random.integers(1, 60, 3)]
    pieces = [
        [tuple(int(n) * 1024 for n in random.integers(0, 300, 3)) for _ in range(5)] for _ in pages
    ]
    spans = spans_of(pages, pieces, PAGE)
    for number, count in enumerate(pages):
        of_it = [range(s.first, s.first + s.pages) for s in spans if s.block == number]
        assert sorted(page for each in of_it for page in each) == list(range(count))
    for span in spans:
        if span.address is not None:
            assert any(
                address + span.first * PAGE - offset == span.address
                and offset <= span.first * PAGE
                and (span.first + span.pages) * PAGE <= offset + size
                for address, size, offset in pieces[span.block]
            )


def test_cells_look_as_the_rule_says() -> None:
    random = np.random.default_rng(3)
    for states in (PAGES, CHANGES):
        counts = random.integers(0, 40, (3000, len(states))) * random.integers(0, 2, (3000, 1))
        counts *= random.integers(0, 2, counts.shape)
        counts[:, 0] += 1
        counts[::3, 0] <<= 26
        found = raster.looks(counts.astype(np.uint32), states).tolist()
        assert found == [
            STEPS * state + step for state, step in (look(each, states) for each in counts.tolist())
        ]


def of_states(before: States, after: States) -> tuple[Memory, Memory]:
    return tuple(of_report(report_of(block_of(each))) for each in (before, after))


@pytest.mark.parametrize("after_pages", [900, 1003, 1100])
def test_what_changed_between_two(after_pages: int) -> None:
    before, after = runs_of_states(1003, 1, run=5), runs_of_states(after_pages, 2, run=5)
    memory = compare(*of_states(before, after))
    both = min(len(before), after_pages)
    expected = np.full(max(len(before), after_pages), 5)
    was, now = before[:both], after[:both]
    was_zero, is_zero = np.isin(was, (ZERO, HOLE)), np.isin(now, (ZERO, HOLE))
    expected[:both] = np.select(
        [
            (was == UNDECIDED) | (now == UNDECIDED),
            was_zero & is_zero,
            was_zero,
            is_zero,
        ],
        [4, 0, 2, 3],
        1,
    )
    cells = cells_of(memory, 1 << 20)
    assert cells.cell_pages == 1
    assert cells.counts.argmax(axis=1).tolist() == expected.tolist()
    assert memory.counts == np.bincount(expected, minlength=6).tolist()


def test_blocks_are_compared_by_name() -> None:
    def two(one: str, other: str, state: int) -> Memory:
        regions = (Region(0x1000, 8 * PAGE, 0, 0),)
        states = np.full(8, state, np.uint8)
        return of_report(report_of(block_of(states, one, regions), block_of(states, other)))

    memory = compare(two("ram", "old", ZERO), two("new", "ram", NORMAL))
    assert [(b.name, b.counts(CHANGES)) for b in memory.blocks] == [
        ("ram", [0, 0, 8, 0, 0, 0]),
        ("old", [0, 0, 0, 0, 0, 8]),
        ("new", [0, 0, 0, 0, 0, 8]),
    ]
    assert {memory.blocks[s.block].name: s.address for s in memory.spans} == {
        "ram": 0x1000,
        "new": 0x1000,
        "old": None,
    }
    with pytest.raises(UsageError, match="no block of RAM in common"):
        compare(two("a", "b", ZERO), two("c", "d", ZERO))
    small, large = of_states(np.zeros(8, np.uint8), np.zeros(8, np.uint8))
    with pytest.raises(UsageError, match=r"pages of 4096 bytes, .* of 8192"):
        compare(small, large._replace(page_size=8192))


@pytest.mark.parametrize("order", range(7))
def test_the_hilbert_curve_goes_everywhere_step_by_step(order: int) -> None:
    number = 4**order
    x, y = layout.hilbert_places(np.arange(number), order)
    assert len({*zip(x.tolist(), y.tolist(), strict=True)}) == number
    assert (np.abs(np.diff(x)) + np.abs(np.diff(y)) == 1).all()
    assert (x[0], y[0]) == (0, 0)
    assert {x.max(), y.max()} == {(1 << order) - 1}
    # Of a coarser curve each place is the square of four places of a finer one.
    finer_x, finer_y = layout.hilbert_places(np.arange(4 * number), order + 1)
    assert (finer_x // 2 == x.repeat(4)).all()
    assert (finer_y // 2 == y.repeat(4)).all()


@pytest.mark.parametrize("name", layout.LAYOUTS)
@pytest.mark.parametrize("pages", [1, 2, 5, 300])
def test_each_cell_has_a_place_of_its_own(name: str, pages: int) -> None:
    states, more = runs_of_states(pages), runs_of_states(3)
    cells = cells_of(of_report(report_of(block_of(states), block_of(more, "more"))), 1000)
    made = layout.laid_out(cells, name)
    places = {*zip(made.x.tolist(), made.y.tolist(), strict=True)}
    assert len(places) == len(cells.counts)
    assert made.x.max() < made.width
    assert made.y.max() == made.height - 1
    if name == "rows":
        assert (made.x[cells.starts[1]], made.y[cells.starts[1]]) == (
            0,
            made.height - -(-3 // made.width),
        )


@pytest.mark.parametrize("most", [5, 100, 1500])
def test_rows_begin_at_round_addresses(most: int) -> None:
    regions = (Region(0xC0000, 900 * PAGE, 0, 0), Region(5 << 30, 100 * PAGE, 0, 900 * PAGE))
    states = runs_of_states(1010)
    cells = cells_of(of_report(report_of(block_of(states, "ram", regions))), most)
    made = layout.rows(cells, 16)
    row_bytes = 16 * cells.cell_pages * PAGE
    seen = []
    for row in layout.rows_of(cells, made):
        address = (row.span.address or 0) + row.page * PAGE
        if row.span.address is None:
            address += row.span.first * PAGE
        assert (
            row.page == 0 or address - address % (cells.cell_pages * PAGE) == row.number * row_bytes
        )
        assert row.number == address // row_bytes
        assert made.y[row.cell] == row.y
        assert row.cell == 0 or made.y[row.cell - 1] == row.y - 1
        seen.append(row.y)
    assert seen == list(range(made.height))
