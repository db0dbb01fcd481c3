"""The small picture in a row: pieces joined, whole files and snapshots."""

from pathlib import Path

import numpy as np
import pytest

from pagecheck.picture.states import STATES
from pagecheck.picture.strip import Strip
from pagecheck.survey.check import Checker
from pagecheck.survey.find import find
from pagecheck.survey.strips import LOOKS, picture_of
from pagecheck.survey.values import Options, Piece, row_of
from tests.support.snapshots import make_snapshot

PAGE = 4096


def cells(*counts: list[int]) -> Strip:
    strip = Strip(len(counts))
    strip.cells = [list(each) for each in counts]
    return strip


def letter(state: str, step: int) -> str:
    return LOOKS[STATES.index(state) * 3 + step]


def test_pieces_are_joined_cell_by_cell() -> None:
    strips = [
        cells([64, 0, 0, 0, 0], [32, 0, 0, 0, 0], [0] * 5, [0] * 5),
        cells([0] * 5, [31, 0, 1, 0, 0], [0, 64, 0, 0, 0], [0] * 5),
    ]
    assert picture_of(strips) == "".join(
        (letter("zero", 2), letter("normal", 0), letter("hole", 2), " ")
    )
    assert strips[0].cells[1] == [32, 0, 0, 0, 0]  # as it was


@pytest.mark.parametrize("strips", [[], [None], [cells([256, 0, 0, 0, 0]), None]])
def test_without_all_strips_there_is_no_picture(strips: list[Strip | None]) -> None:
    assert picture_of(strips) is None


@pytest.mark.parametrize("piece_pages", [1024, 128, 512])
def test_a_file_in_pieces_looks_as_in_one(tmp_path: Path, piece_pages: int) -> None:
    """A quarter each of holes, zeros and content, and one normal page in the fourth."""
    ram = np.zeros(1024 * PAGE, np.uint8)
    ram[512 * PAGE : 768 * PAGE] = 7
    ram[900 * PAGE] = 1
    path = tmp_path / "a.ram"
    with open(path, "wb") as file:
        file.truncate(len(ram))
        file.seek(256 * PAGE)
        file.write(ram[256 * PAGE :].tobytes())
    (target,) = find([str(path)])
    size = piece_pages * PAGE
    with Checker(Options(pictures=True)) as checker:
        pieces = [Piece(target, at, size) for at in range(0, target.size, size)]
        row = row_of(target, map(checker.check, pieces))
    few = letter("normal", 1)  # one page of a cell of 8
    rest = [letter(each, 2) for each in ("hole", "zero", "normal", "zero")]
    expected = [each for each in rest for _ in range(32)]
    expected[900 // 8] = few
    assert row.picture == "".join(expected)


def test_pictures_are_made_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.ram"
    path.write_bytes(bytes(1 << 20))
    (target,) = find([str(path)])
    with Checker() as checker:
        assert row_of(target, [checker.check(Piece(target, 0, 1 << 20))]).picture is None


def test_a_snapshot_shows_its_bitmaps(tmp_path: Path) -> None:
    first = bytes(32 * PAGE) + b"n" * (32 * PAGE)
    make_snapshot(tmp_path / "saved", {"a": first, "b": bytes(64 * PAGE)})
    (target,) = find([str(tmp_path / "saved")])
    with Checker(Options(pictures=True)) as checker:
        row = row_of(target, [checker.check(Piece(target, 0, target.size))])
    runs = [("hole", 32), ("normal", 32), ("hole", 64)]
    assert row.picture == "".join(letter(state, 2) * pages for state, pages in runs)
