"""Large files are cut at their data: each page once, at any page size, in few pieces."""

import os
from pathlib import Path

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.model import Counts
from pagecheck.survey import split
from pagecheck.survey.split import pieces
from pagecheck.survey.values import Piece, Target, identity_of
from tests.support.rams import PAGE

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40


def target_of(path: Path) -> Target:
    status = os.stat(path)
    allocated = status.st_blocks * 512
    return Target(str(path), "file", status.st_size, allocated, identity_of(status))


def file_with(path: Path, size: int, data: dict[int, int]) -> Target:
    """A sparse file with bytes that are not zero: how many by where they begin."""
    with path.open("wb") as file:
        file.truncate(size)
        for at, length in data.items():
            file.seek(at)
            file.write(b"x" * length)
    return target_of(path)


def covers(found: list[Piece], target: Target) -> bool:
    """Whether each byte is in exactly one piece, in order."""
    ends = [0, *(each.start + each.length for each in found)]
    starts = [*(each.start for each in found), target.size]
    return ends == starts and all(each.length > 0 for each in found)


def test_a_file_with_little_data_is_one_piece(shm_folder: Path) -> None:
    target = file_with(shm_folder / "ram", 64 * MIB, {0: PAGE})
    assert pieces(target, 4 * MIB) == [Piece(target, 0, 64 * MIB)]


def test_a_sparse_file_of_a_tib_makes_few_pieces(shm_folder: Path) -> None:
    at = np.random.default_rng(1).choice(TIB // PAGE, 1000, replace=False) * PAGE
    target = file_with(shm_folder / "ram", TIB, dict.fromkeys(map(int, at), PAGE))
    assert len(pieces(target, GIB)) == 1
    found = pieces(target, MIB)
    assert covers(found, target)
    assert 4 <= len(found) <= 8  # 4 MB of data


def test_cuts_follow_the_data(shm_folder: Path) -> None:
    target = file_with(shm_folder / "ram", GIB, {0: 8 * MIB, 900 * MIB: 8 * MIB})
    found = pieces(target, 4 * MIB)
    assert [(each.start // MIB, each.length // MIB) for each in found] == [
        *((0, 4), (4, 4)),
        *((8, 896), (904, 4)),
        (908, 116),
    ]


def test_many_small_extents_cost_few_lookups(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dict.fromkeys(range(0, 64 * MIB, 2 * PAGE), PAGE)
    target = file_with(shm_folder / "ram", 256 * MIB, data)
    monkeypatch.setattr(split, "LOOKUPS_MAX", 16)
    found = pieces(target, 4 * MIB)
    assert covers(found, target)
    assert len(found) <= 18  # as if dense, until the data ends


@pytest.mark.parametrize("allocated", [TIB, None])
def test_what_has_no_extents_is_cut_by_length(allocated: int | None) -> None:
    target = Target("s3://bucket/ram", "object", 10 * GIB + PAGE, allocated, "etag")
    found = pieces(target, 4 * GIB)
    assert covers(found, target)
    assert [each.length for each in found] == [4 * GIB, 4 * GIB, 2 * GIB + PAGE]


def test_a_snapshot_is_one_piece() -> None:
    target = Target("/saved", "snapshot", TIB, TIB, "manifest")
    assert pieces(target, GIB) == [Piece(target, 0, TIB)]


def test_a_file_that_is_gone_is_still_cut() -> None:
    target = Target("/nowhere/ram", "file", 3 * GIB, 3 * GIB, "1:2:3:4")
    assert covers(pieces(target, GIB), target)


@pytest.mark.parametrize("page_size", [PAGE, 2 * MIB])
def test_pieces_together_count_what_the_whole_file_does(shm_folder: Path, page_size: int) -> None:
    rng = np.random.default_rng(2)
    data = {int(at) * PAGE: PAGE for at in rng.choice(64 * MIB // PAGE, 3000, replace=False)}
    target = file_with(shm_folder / "ram", 64 * MIB, data)
    found = pieces(target, 3 * MIB)
    assert len(found) > 3
    with Coordinator(1) as coordinator:

        def counts(start: int, length: int) -> Counts:
            block = coordinator.attach(
                target.path, page_size=page_size, offset=start, length=length, access="read"
            )
            try:
                return coordinator.scan(block).total
            finally:
                coordinator.detach(block)

        whole = counts(0, target.size)
        assert Counts.sum(counts(each.start, each.length) for each in found) == whole
    assert whole.pages == target.size // page_size
