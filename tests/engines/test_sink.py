"""Pages that are copied while they are decided: over every source, engine and kind of sink, what is
called normal is in the file, and what is called zero reads as zeros there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block, scan, select
from pagecheck.coordinator.select import Ranges
from pagecheck.errors import UsageError
from tests.support.bitmaps import bits
from tests.support.oracle import zero_pages
from tests.support.rams import HOLE, HUGE, PAGE, ZEROS, Page, Ram, file_in, memfd

ENGINES = ["cpu", "model:mode=shared", "model:mode=write"]
PAGES = 700


@pytest.fixture(scope="module", params=ENGINES)
def coordinator(request: pytest.FixtureRequest, clean_module: None) -> Iterator[Coordinator]:
    if request.param == "cpu":
        made = Coordinator(channels=2, engine="cpu", batch_pages=64)
    else:
        made = Coordinator(engine="dsa", wq=[request.param] * 2, batch_pages=64)
    with made:
        yield made


def pattern(seed: int, page: int) -> list[Page]:
    """Runs of holes, zeros and data, short and long; each page of data has one byte. Of large pages
    a few of each."""
    rng = np.random.default_rng(seed)
    made: list[Page] = []
    while len(made) < PAGES and page == PAGE:
        length = int(rng.integers(1, 70 if rng.integers(4) == 0 else 4))
        kind = rng.integers(4)
        for _ in range(length):
            byte = Page(int(rng.integers(page)), int(rng.integers(1, 256)))
            made.append((HOLE, ZEROS, byte, byte)[kind])
    if page == PAGE:
        return made[:PAGES]
    few = [HOLE, ZEROS, Page(0), Page(page - 1), Page(page // 2 + 1), ZEROS, HOLE, Page(page // 3)]
    return [few[at] for at in rng.permutation(len(few))]


@contextlib.contextmanager
def place(where: str, folder: Path) -> Iterator[Ram]:
    with {"tmpfs": file_in("/dev/shm"), "memfd": memfd(), "disk": file_in(folder)}[where] as ram:
        yield ram


@contextlib.contextmanager
def copied(coordinator: Coordinator, ram: Ram, sink: Ram, **options: object) -> Iterator[Block]:
    try:
        block = coordinator.attach(ram.source, copy_to=sink.fd, **options)  # type: ignore[arg-type]
    except UsageError as error:
        if "cannot be mapped" not in str(error):
            raise
        pytest.skip(f"{ram.source}: this file system is not one that pagecheck maps")
    try:
        yield block
    finally:
        coordinator.detach(block)


def whole(ram: Ram) -> bytes:
    return os.pread(ram.fd, os.fstat(ram.fd).st_size, 0)


def assert_copied(coordinator: Coordinator, block: Block, expected: np.ndarray) -> int:
    """Every page is right; how many were written."""
    result = coordinator.scan_block(block)
    assert result.notes == block.notes(coordinator.engine)
    assert np.array_equal(bits(result.report.zero, len(expected)), expected)
    assert np.array_equal(bits(result.report.normal, len(expected)), ~expected)
    assert result.write_error is None
    return result.written


@pytest.mark.parametrize("where", ["tmpfs", "disk"])
@pytest.mark.parametrize("access", ["map", "read"])
@pytest.mark.parametrize("page", [PAGE, HUGE])
def test_a_new_file(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, page: int
) -> None:
    with place(where, tmp_path) as ram, file_in(tmp_path) as sink:
        ram.fill(pattern(page, page), page)
        expected = zero_pages(ram.fd, page)
        os.ftruncate(sink.fd, os.fstat(ram.fd).st_size)
        with copied(coordinator, ram, sink, page_size=page, access=access) as block:
            written = assert_copied(coordinator, block, expected)
        assert written == (~expected).sum()
        assert whole(sink) == whole(ram)
        assert sink.blocks * 512 == written * page  # what is zero is a hole


@pytest.mark.parametrize("where", ["memfd", "disk"])
@pytest.mark.parametrize("access", ["map", "read"])
@pytest.mark.parametrize("page", [PAGE, HUGE])
def test_a_file_that_has_content(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, page: int
) -> None:
    """Only what differs is written. Without trust in holes every page is looked at."""
    options = {"page_size": page, "access": access, "holes": "read", "copy_update": True}
    with place(where, tmp_path) as ram, place(where, tmp_path) as sink:
        sink.fill(pattern(1, page), page)
        older = np.frombuffer(whole(sink), np.uint8)
        ram.fill(pattern(2, page), page)
        newer = np.frombuffer(whole(ram), np.uint8)
        expected = zero_pages(ram.fd, page)
        with copied(coordinator, ram, sink, **options) as block:
            assert_copied(coordinator, block, expected)
            assert block.sink is not None
            different = (older != newer).reshape(-1, PAGE).any(1)
            assert block.sink.written_bytes == different.sum() * PAGE
            assert whole(sink) == whole(ram)
            assert assert_copied(coordinator, block, expected) == 0


def test_holes_are_left_to_the_caller(coordinator: Coordinator) -> None:
    """A page in a hole of the source is answered without a look, and its place left as it is."""
    with memfd() as ram, memfd() as sink:
        ram.fill([HOLE, Page(0), ZEROS, HOLE], PAGE)
        sink.fill([Page(7)] * 4, PAGE)
        with copied(coordinator, ram, sink, copy_update=True) as block:
            assert_copied(coordinator, block, np.array([True, False, True, True]))
        assert [any(whole(sink)[at : at + PAGE]) for at in range(0, 4 * PAGE, PAGE)] == [
            *(True, True, False, True)
        ]


def test_where_the_pages_go(coordinator: Coordinator) -> None:
    with memfd() as ram, memfd() as sink:
        ram.fill([HOLE, ZEROS, Page(1), HOLE, Page(2)], PAGE)
        sink.fill([Page(7)] * 9, PAGE)
        older = whole(sink)
        options = {"offset": PAGE, "length": 3 * PAGE, "copy_offset": 4 * PAGE}
        with copied(coordinator, ram, sink, **options) as block:
            assert_copied(coordinator, block, np.array([True, False, True]))
        page = whole(ram)[2 * PAGE : 3 * PAGE]
        assert whole(sink) == older[: 5 * PAGE] + page + older[6 * PAGE :]


def test_selected_pages(coordinator: Coordinator) -> None:
    with memfd() as ram, memfd() as sink:
        ram.fill([Page(1)] * 64, PAGE)
        os.ftruncate(sink.fd, 64 * PAGE)
        with copied(coordinator, ram, sink) as block:
            result = coordinator.scan_block(block, selection=Ranges([(0, 1), (2, 1)], 64))
        assert (result.written, result.report.counts.normal) == (2, 2)
        assert whole(sink) == whole(ram)[:PAGE] + bytes(PAGE) + whole(ram)[:PAGE] + bytes(61 * PAGE)


def test_windows_beside_another_job(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job always has a batch in progress: each window is copied all the same."""
    monkeypatch.setattr(select, "WINDOW_PAGES", 32)
    monkeypatch.setattr(scan, "_may_write", lambda _channel: True)
    with memfd() as ram, memfd() as sink:
        ram.fill([Page(1)] * 96, PAGE)
        os.ftruncate(sink.fd, 96 * PAGE)
        with copied(coordinator, ram, sink) as block:
            result = coordinator.scan_block(block, selection=Ranges([(0, 96)], 96))
        assert (result.written, result.report.counts.normal) == (96, 96)
        assert whole(sink) == whole(ram)
