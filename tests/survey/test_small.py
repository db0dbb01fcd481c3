"""Small files are answered for as scans answer, and as numpy does."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.survey import check
from pagecheck.survey.check import Checker, attempt
from pagecheck.survey.find import find
from pagecheck.survey.small import SmallFiles
from pagecheck.survey.values import Failed, Found, Options, Piece, Target
from tests.support.file_systems import mounted
from tests.support.stalling_fs import FILE_BYTES, stalling_fs
from tests.survey.files import PAGE, memory, zero_pages

SEEDS = range(40)


def piece(path: Path) -> Piece:
    (target,) = find([str(path)])
    assert isinstance(target, Target)
    return Piece(target, 0, target.size)


@pytest.fixture(scope="module")
def checkers() -> Iterator[tuple[Checker, Checker]]:
    """One that checks small files by scans alone, and one that scans none."""
    with Checker() as scanning, Checker() as small:
        scanning._small_seen = -1_000_000
        small._small_seen = check.SMALL_FIRST
        yield scanning, small


@pytest.fixture
def small(checkers: tuple[Checker, Checker]) -> Checker:
    return checkers[1]


def kinds(seed: int) -> str:
    choice = random.Random(seed)
    return "".join(choice.choices("nzh", k=choice.choice([1, 2, 63, 64, 65, 511, 512])))


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "here"])
def test_counts_are_those_of_scans_and_of_numpy(
    tmp_path: Path, kind: str, checkers: tuple[Checker, Checker]
) -> None:
    def look(folder: Path) -> None:
        for seed in SEEDS:
            path = memory(folder / "ram", kinds(seed))
            scanned, found = (each.check(piece(path)) for each in checkers)
            assert found.counts == scanned.counts
            assert (found.settled, found.note) == (scanned.settled, scanned.note)
            assert found.bytes_checked == scanned.bytes_checked
            assert found.counts.zero == zero_pages(path)
            path.unlink()

    if kind == "here":
        look(tmp_path)
    else:
        with mounted(tmp_path, kind, "64M") as at:
            look(at)


def test_many_small_files_are_not_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(check.SMALL_FIRST + 10):
        memory(tmp_path / f"{number:03}", "nz")
    asked = []
    monkeypatch.setattr(
        SmallFiles,
        "check",
        lambda *given, **options: asked.append(given) or real(*given, **options),
    )
    with Checker() as checker:
        for target in find([str(tmp_path)]):
            found = attempt(checker, Piece(target, 0, target.size))
            assert isinstance(found, Found)
            assert (found.counts.zero, found.counts.normal) == (1, 1)
    assert len(asked) == 10


real = SmallFiles.check


def test_nothing_is_left_of_the_file_before(tmp_path: Path, small: Checker) -> None:
    full = memory(tmp_path / "full", "n" * 512)
    empty = memory(tmp_path / "empty", "h" * 512)
    for _ in range(3):
        assert small.check(piece(full)).counts.normal == 512
        assert small.check(piece(empty)).counts.zero == 512


def test_a_file_that_is_cut_while_it_is_read(
    tmp_path: Path, small: Checker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = memory(tmp_path / "ram", "n" * 8)
    wanted = piece(path)

    def cut(fd: int, buffers: list[memoryview], at: int) -> int:
        os.truncate(path, 2 * PAGE)
        return preadv(fd, buffers, at)

    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", cut)
    before = len(os.listdir("/proc/self/fd"))
    found = attempt(small, wanted)
    assert found == Failed(wanted, "was cut to 8192 bytes meanwhile")
    assert len(os.listdir("/proc/self/fd")) == before


def test_pages_that_cannot_be_read_are_undecided(small: Checker) -> None:
    with stalling_fs(frozenset({f"error@{FILE_BYTES // 2}"})) as fs:
        found = small.check(piece(Path(fs.path)))
        assert found.counts.undecided == FILE_BYTES // 2 // PAGE
        assert found.counts.zero == FILE_BYTES // 2 // PAGE
        assert found.note


def test_other_page_sizes(tmp_path: Path) -> None:
    path = memory(tmp_path / "ram", "hn" + "h" * 510)
    with Checker(Options(page_size=2 << 20)) as huge, Checker(Options(page_size=8192)) as large:
        for checker, normal, pages in ((huge, 1, 1), (large, 1, 256)):
            checker._small_seen = check.SMALL_FIRST
            counts = checker.check(piece(path)).counts
            assert (counts.normal, counts.pages, counts.undecided) == (normal, pages, 0)
