"""Extents to runs of pages, against a page-by-page oracle."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.errors import SourceError, UsageError
from pagecheck.model import RamBlock
from pagecheck.plan import (
    PartialPage,
    Run,
    check_page_size,
    common_page_size,
    make_block,
    page_runs,
)

K = 1024


@pytest.mark.parametrize("size", [4096, 16 * K, 64 * K, 2 << 20, 1 << 30])
def test_page_sizes(size: int) -> None:
    check_page_size(size)


@pytest.mark.parametrize("size", [0, -4096, 1, 512, 2048, 4095, 4097, 12288, 3 << 20])
def test_bad_page_sizes(size: int) -> None:
    with pytest.raises(UsageError, match=str(size)):
        check_page_size(size)


def test_whole_file() -> None:
    assert make_block("b", 64 * K, 4096) == RamBlock("b", 64 * K, 4096, 0)


def test_part_of_a_file() -> None:
    assert make_block("b", 64 * K, 4096, 8192, 4096) == RamBlock("b", 4096, 4096, 8192)


def test_length_allows_an_odd_file_size() -> None:
    assert make_block("b", 64 * K + 1, 4096, 0, 64 * K).pages == 16


def test_the_rest_of_a_file() -> None:
    block = make_block("b", 64 * K, 4096, 8192, None)
    assert (block.start, block.size) == (8192, 56 * K)


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (1, None),
        (-4096, None),
        (64 * K, None),
        (0, 0),
        (0, -4096),
        (0, 100),
        (0, 68 * K),
        (4096, 64 * K),
    ],
)
def test_bad_parts(offset: int, length: int | None) -> None:
    with pytest.raises(UsageError):
        make_block("b", 64 * K, 4096, offset, length)


def test_bad_parts_are_named() -> None:
    with pytest.raises(UsageError, match="at or past the end of b"):
        make_block("b", 64 * K, 4096, 64 * K)
    with pytest.raises(UsageError, match="page size"):
        make_block("b", 64 * K, 4095)


def test_odd_file_size_is_the_sources_fault() -> None:
    with pytest.raises(SourceError, match="65537"):
        make_block("b", 64 * K + 1, 4096)


def test_hole_then_data_then_hole() -> None:
    runs = list(page_runs([(8192, 12288)], RamBlock("b", 16384, 4096), "full"))
    assert runs == [Run(True, 0, 2), Run(False, 2, 1), Run(True, 3, 1)]


def test_part_hole_page_is_data() -> None:
    runs = list(page_runs([(4096, 8192)], RamBlock("b", 3 * 16384, 16384), "full"))
    assert runs == [Run(False, 0, 1), Run(True, 1, 2)]


def test_block_start_is_page_0() -> None:
    block = RamBlock("b", 16384, 4096, start=1 << 20)
    runs = list(page_runs([((1 << 20) + 4096, (1 << 20) + 8192)], block, "full"))
    assert runs == [Run(True, 0, 1), Run(False, 1, 1), Run(True, 2, 2)]


@pytest.mark.parametrize(("extent", "edge"), [((4096, 16384), 4096), ((0, 4096), 4096)])
def test_diff_refuses_part_hole_pages(extent: tuple[int, int], edge: int) -> None:
    with pytest.raises(PartialPage) as caught:
        list(page_runs([extent], RamBlock("b", 32768, 16384), "diff"))
    assert caught.value.offset == edge


UNIT = 4096


@st.composite
def layouts(draw: st.DrawFn) -> tuple[RamBlock, list[tuple[int, int]], list[bool]]:
    """A block, its data extents, and which 4 KiB pieces are data."""
    per_page = draw(st.sampled_from([1, 2, 4, 16]))
    pages = draw(st.integers(1, 12))
    start = UNIT * per_page * draw(st.integers(0, 3))
    data = draw(st.lists(st.booleans(), min_size=pages * per_page, max_size=pages * per_page))
    extents: list[tuple[int, int]] = []
    for index, is_data in enumerate(data):
        begin = start + index * UNIT
        if is_data and extents and extents[-1][1] == begin and draw(st.booleans()):
            extents[-1] = (extents[-1][0], begin + UNIT)
        elif is_data:
            extents.append((begin, begin + UNIT))
    page = UNIT * per_page
    return RamBlock("b", pages * page, page, start), extents, data


@given(layouts())
def test_runs_cover_every_page_once(
    layout: tuple[RamBlock, list[tuple[int, int]], list[bool]],
) -> None:
    block, extents, data = layout
    per_page = block.page_size // UNIT
    is_data = [any(data[i : i + per_page]) for i in range(0, len(data), per_page)]
    answered: list[bool] = []
    runs = list(page_runs(extents, block, "full"))
    assert all(a.hole != b.hole for a, b in itertools.pairwise(runs))
    for run in runs:
        assert run.first == len(answered)
        assert run.pages > 0
        answered += [not run.hole] * run.pages
    assert answered == is_data


@given(layouts())
def test_diff_refuses_exactly_the_mixed_pages(
    layout: tuple[RamBlock, list[tuple[int, int]], list[bool]],
) -> None:
    block, extents, data = layout
    per_page = block.page_size // UNIT
    pages = [data[i : i + per_page] for i in range(0, len(data), per_page)]
    mixed = any(any(page) and not all(page) for page in pages)
    # Extents that touch inside a page are one stretch of data to the file system.
    touching = any(a[1] == b[0] for a, b in itertools.pairwise(extents))
    try:
        runs = list(page_runs(extents, block, "diff"))
    except PartialPage:
        assert mixed or touching
    else:
        assert not mixed
        assert runs == list(page_runs(extents, block, "full"))


def test_common_page_size() -> None:
    block = RamBlock("b", 1 << 20, 64 * K)
    assert common_page_size([(0, 64 * K), (128 * K, 144 * K)], block) == 16 * K
    assert common_page_size([], block) == 64 * K
    assert common_page_size([(0, 16 * K), (32 * K, 64 * K)], block) == 16 * K
    assert common_page_size([(0, 1000)], block) < 4096
