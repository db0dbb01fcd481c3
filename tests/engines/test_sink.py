"""Pages that are copied while they are decided: over every source, engine and kind of sink, what is
called normal is in the file, and what is called zero reads as zeros there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator import Block
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


def pattern(seed: int, page: int = PAGE, pages: int = PAGES) -> list[Page]:
    """Runs of holes, zeros and data, short and long; each page of data has one byte."""
    rng = np.random.default_rng(seed)
    made: list[Page] = []
    while len(made) < pages:
        length = int(rng.integers(1, 70 if rng.integers(4) == 0 else 4))
        kind = rng.integers(4)
        for _ in range(length):
            byte = Page(int(rng.integers(page)), int(rng.integers(1, 256)))
            made.append((HOLE, ZEROS, byte, byte)[kind])
    return made[:pages]


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


@pytest.mark.parametrize("where", ["tmpfs", "memfd", "disk"])
@pytest.mark.parametrize("access", ["map", "read"])
@pytest.mark.parametrize("page", [PAGE, 16384, HUGE])
def test_a_new_file(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, page: int
) -> None:
    pages = pattern(page, page, PAGES if page == PAGE else 12)
    with place(where, tmp_path) as ram, file_in(tmp_path) as sink:
        ram.fill(pages, page)
        expected = zero_pages(ram.fd, page)
        os.ftruncate(sink.fd, os.fstat(ram.fd).st_size)
        with copied(coordinator, ram, sink, page_size=page, access=access) as block:
            written = assert_copied(coordinator, block, expected)
        assert written == (~expected).sum()
        assert whole(sink) == whole(ram)
        assert sink.blocks * 512 == written * page  # what is zero is a hole


@pytest.mark.parametrize("where", ["tmpfs", "memfd", "disk"])
@pytest.mark.parametrize("access", ["map", "read"])
@pytest.mark.parametrize("page", [PAGE, 16384, HUGE])
def test_a_file_that_has_content(
    coordinator: Coordinator, tmp_path: Path, where: str, access: str, page: int
) -> None:
    """Only what differs is written; pages in holes of the source are left as they are."""
    count = PAGES if page == PAGE else 12
    with file_in(tmp_path) as ram, place(where, tmp_path) as sink:
        sink.fill(pattern(page + 1, page, count), page)
        older = np.frombuffer(whole(sink), np.uint8).reshape(count, page)
        ram.fill(pattern(page, page, count), page)
        newer = np.frombuffer(whole(ram), np.uint8).reshape(count, page)
        with copied(coordinator, ram, sink, page_size=page, access=access, holes="read",
                    copy_update=True) as block:  # fmt: skip
            # without holes every page is looked at
            written = assert_copied(coordinator, block, zero_pages(ram.fd, page))
            assert block.sink is not None
            parts = block.sink.written_bytes // PAGE
            assert parts == (older != newer).reshape(-1, PAGE).any(1).sum()
            assert written == parts * PAGE // page
            assert whole(sink) == whole(ram)
            assert assert_copied(coordinator, block, zero_pages(ram.fd, page)) == 0
