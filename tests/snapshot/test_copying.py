"""Blocks whose content changes between the passes: the file ends up with the last of it."""

import os
import random
from pathlib import Path

import pytest

from pagecheck import Coordinator
from pagecheck.shm.ram import open_source
from pagecheck.snapshot.copying import Copying, RamFile, became_zero, normal_bytes
from pagecheck.snapshot.holes import punch
from pagecheck.sources import Found
from tests.support.leftovers import open_fds
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")
PAGES = 512


def change(path: Path, rng: random.Random) -> None:
    """Some pages get other data, some zeros, some become holes."""
    with path.open("r+b", buffering=0) as file:
        for page in rng.sample(range(PAGES), PAGES // 2):
            match rng.randrange(4):
                case 0:
                    os.pwrite(file.fileno(), rng.randbytes(PAGE), page * PAGE)
                case 1:
                    os.pwrite(file.fileno(), bytes(PAGE), page * PAGE)
                case 2:
                    punch(file.fileno(), page * PAGE, PAGE)
                case 3:  # one byte
                    os.pwrite(file.fileno(), b"x", page * PAGE + rng.randrange(PAGE))


@pytest.mark.parametrize("ahead", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_content_counts(shm_folder: Path, tmp_path: Path, ahead: int, seed: int) -> None:
    rng = random.Random(seed)
    ram = sparse_file(shm_folder / "ram", PAGES, {})
    change(ram, rng)
    target = tmp_path / "copy"
    fd = os.open(target, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, PAGES * PAGE)
    try:
        with Coordinator(channels=2) as coordinator:
            source = open_source(ram)
            block = coordinator.attach(source, copy_to=fd, copy_update=True)
            files = [RamFile(Found(source, block.ram, ()), block, "copy", fd, True)]
            copying = Copying("snap", coordinator, files, None)
            for _ in range(ahead):
                copying.copy_ahead(lambda _done: None)
                change(ram, rng)
            copying.copy(None, lambda _done: None)
            copying.finish()
    finally:
        os.close(fd)
    content = ram.read_bytes()
    assert target.read_bytes() == content
    normal = sum(content[at : at + PAGE] != bytes(PAGE) for at in range(0, len(content), PAGE))
    assert copying.results[0].report.counts.normal == normal
    assert target.stat().st_blocks * 512 <= normal * PAGE


def test_pages_that_became_zero() -> None:
    def words(*pages: int) -> memoryview:
        return memoryview(sum(1 << page for page in pages).to_bytes(16, "little"))

    before, after = words(0, 5), words(0, 1, 2, 5, 63, 64, 99)
    assert list(became_zero(before, after, 100)) == [(1, 2), (63, 2), (99, 1)]
    assert list(became_zero(after, before, 100)) == []
    assert list(became_zero(words(1), words(0, 1, 2), 100)) == [(0, 1), (2, 1)]


def test_how_much_is_not_zero(shm_folder: Path) -> None:
    """Asked of the same source that is saved afterwards."""
    ram = sparse_file(shm_folder / "ram", PAGES, {3: b"x", 4: b"y", 9: bytes(PAGE)})
    with Coordinator(channels=1) as coordinator, open_source(ram) as source:
        block = coordinator.attach(ram)
        found = [Found(source, block.ram, ())]
        before = open_fds()
        assert normal_bytes(coordinator, found, PAGE) == 2 * PAGE
        assert normal_bytes(coordinator, found, PAGE) == 2 * PAGE
        assert open_fds() == before, "it is detached again"
