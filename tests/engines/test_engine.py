"""The whole engine over every way to look at RAM: scan and check against numpy, and nothing
changed by looking."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagecheck import Coordinator
from pagecheck.coordinator import Block
from pagecheck.errors import UsageError
from pagecheck.native import _native
from tests.support.bitmaps import bits
from tests.support.oracle import zero_pages
from tests.support.rams import HOLE, HUGE, ZEROS, Page, Ram, file_in, huge, memfd

SIZES = [4096, 16384, 65536, HUGE]
KERNELS = [name for name, why, _untested in _native.kernels() if why is None]

places = pytest.mark.parametrize("where", ["tmpfs", "memfd", "disk"])
accesses = pytest.mark.parametrize("access", ["map", "read"])


QUEUES = [f"model:mode={mode}" for mode in ("shared", "dedicated", "write", "write,version=2")]


@pytest.fixture(scope="module", params=[*KERNELS, *QUEUES])
def coordinator(request: pytest.FixtureRequest, clean_module: None) -> Iterator[Coordinator]:
    if request.param in QUEUES:
        made = Coordinator(engine="dsa", wq=[request.param] * 2, batch_pages=64)
    else:
        made = Coordinator(channels=2, engine="cpu", kernel=request.param, batch_pages=64)
    with made:
        yield made


@contextlib.contextmanager
def ram_at(where: str, folder: Path) -> Iterator[Ram]:
    made = {"tmpfs": file_in("/dev/shm"), "memfd": memfd(), "disk": file_in(folder)}[where]
    with made as ram:
        yield ram


@contextlib.contextmanager
def attached(coordinator: Coordinator, ram: Ram, **options: object) -> Iterator[Block]:
    try:
        block = coordinator.attach(ram.source, **options)  # type: ignore[arg-type]
    except UsageError as error:
        if "cannot be mapped" not in str(error):
            raise
        pytest.skip(f"{ram.source}: this file system is not one that pagecheck maps")
    try:
        yield block
    finally:
        coordinator.detach(block)


def layout(page: int) -> list[Page]:
    """Every place that matters, between holes and zeros: alone, in pairs, at a group's border."""
    spots = [0, 1, 63, 64, 255, 256, page // 2 - 1, page // 2, page - 64, page - 1]
    few = [0, page // 2 + 1, page - 1]
    pages = [HOLE, ZEROS]
    for place in spots if page < HUGE else few:
        pages += [Page(place, 1 << place % 8), HOLE, ZEROS, ZEROS]
    return pages + ([HOLE] * 70 + [Page(page - 1)] if page < HUGE else [HOLE])


def assert_right(
    coordinator: Coordinator, block: Block, ram: Ram, page: int, start: int = 0
) -> None:
    """Scan and check agree with numpy, and the file has as many blocks as before."""
    expected = zero_pages(ram.fd, page, start=start)
    before = ram.blocks
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(len(expected)), 2))
    for _ in range(2):
        report = coordinator.scan(block)
        found = report.blocks[0]
        assert np.array_equal(bits(found.zero, len(expected)), expected)
        assert np.array_equal(bits(found.normal, len(expected)), ~expected)
        assert found.counts.undecided == 0
        offsets = order.astype(np.uint64) * np.uint64(page)
        answer = coordinator.check(block, offsets)
        assert answer.decided.all()
        assert np.array_equal(answer.zero, expected[order])
        normal = offsets[~expected[order]]
        assert answer.normal_count == len(normal)
        parts = np.concatenate([normal, offsets[expected[order]]])
        assert np.array_equal(answer.partition, parts)
        assert ram.blocks == before


@places
@accesses
@pytest.mark.parametrize("page", SIZES)
@pytest.mark.parametrize("holes", ["trust", "read"])
def test_like_numpy(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, page: int, holes: str
) -> None:
    with ram_at(where, tmp_path) as ram:
        ram.fill(layout(page), page)
        with attached(coordinator, ram, page_size=page, access=access, holes=holes) as block:
            assert_right(coordinator, block, ram, page)


@places
@accesses
def test_a_block_that_starts_inside_the_file(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str
) -> None:
    with ram_at(where, tmp_path) as ram:
        ram.fill(layout(4096), 4096, start=3 * 4096)
        with attached(coordinator, ram, offset=3 * 4096, access=access) as block:
            assert_right(coordinator, block, ram, 4096, 3 * 4096)


@places
@accesses
@pytest.mark.parametrize(
    "pages", [[HOLE] * 65, [ZEROS] * 65, [Page(4095)] * 65], ids=["hole", "0", "1"]
)
def test_uniform(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, pages: list[Page]
) -> None:
    with ram_at(where, tmp_path) as ram:
        ram.fill(pages, 4096)
        with attached(coordinator, ram, access=access) as block:
            assert_right(coordinator, block, ram, 4096)


@places
@accesses
def test_a_hole_that_is_written_later_is_seen(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str
) -> None:
    with ram_at(where, tmp_path) as ram:
        ram.fill([HOLE] * 300, 4096)
        with attached(coordinator, ram, access=access) as block:
            assert_right(coordinator, block, ram, 4096)
            ram.write(b"x", 200 * 4096 + 4095)
            assert_right(coordinator, block, ram, 4096)


@st.composite
def any_pages(draw: st.DrawFn) -> tuple[int, list[Page]]:
    page = draw(st.sampled_from([4096, 16384]))
    one = st.builds(Page, st.integers(0, page - 1), st.integers(1, 255))
    kinds = st.one_of(st.just(HOLE), st.just(ZEROS), one)
    return page, draw(st.lists(kinds, min_size=1, max_size=150))


@places
@accesses
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=any_pages())
def test_any_pages(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, case: tuple[int, list[Page]]
) -> None:
    page, pages = case
    with ram_at(where, tmp_path) as ram:
        ram.fill(pages, page)
        with attached(coordinator, ram, page_size=page, access=access) as block:
            assert_right(coordinator, block, ram, page)


@pytest.fixture
def huge_ram() -> Iterator[Ram]:
    stack = contextlib.ExitStack()
    try:
        ram = stack.enter_context(huge(6))
    except OSError as error:
        pytest.skip(f"no hugetlbfs: {error}")
    with stack:
        yield ram


@pytest.mark.parametrize("page", [4096, HUGE])
@pytest.mark.parametrize("access", ["auto", "read"])
def test_sparse_hugetlbfs(coordinator: Coordinator, huge_ram: Ram, page: int, access: str) -> None:
    huge_ram.fill([HOLE, ZEROS, Page(HUGE - 1), HOLE, Page(0), HOLE], HUGE)
    with attached(coordinator, huge_ram, page_size=page, access=access) as block:
        assert block.map is False
        assert_right(coordinator, block, huge_ram, page)


def test_sparse_hugetlbfs_is_not_mapped(coordinator: Coordinator, huge_ram: Ram) -> None:
    huge_ram.fill([HOLE, ZEROS], HUGE)
    with pytest.raises(UsageError, match="cannot be mapped"):
        coordinator.attach(huge_ram.source, access="map")


@pytest.mark.parametrize("page", [4096, HUGE])
@pytest.mark.parametrize("access", ["map", "read"])
def test_full_hugetlbfs(coordinator: Coordinator, huge_ram: Ram, page: int, access: str) -> None:
    huge_ram.fill([ZEROS, Page(0), ZEROS, Page(HUGE - 1), Page(HUGE // 2), ZEROS], HUGE)
    with attached(coordinator, huge_ram, page_size=page, access=access) as block:
        assert block.map is (access == "map")
        assert_right(coordinator, block, huge_ram, page)
