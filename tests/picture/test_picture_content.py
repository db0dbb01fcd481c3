"""Content that is compared: which pages that are normal in both have changed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagecheck.cli.main import run_command
from pagecheck.snapshot.compress import compress_block
from tests.support.snapshots import make_snapshot

Run = Callable[..., tuple[int, str, str]]
SAME, CHANGED = 1, 2


def two_rams(pages: int, page: int = 4096, seed: int = 1) -> tuple[bytes, bytes, list[int]]:
    """Two memories, of which pages are zero, the same, or differ in one byte; and what they are."""
    random = np.random.default_rng(seed)
    kinds = random.choice(5, pages, p=[0.3, 0.3, 0.2, 0.1, 0.1])
    before = np.zeros((pages, page), np.uint8)
    before[np.isin(kinds, (1, 2, 4)), 7] = 1
    after = np.zeros((pages, page), np.uint8)
    after[np.isin(kinds, (1, 2, 3)), 7] = 1
    for number in np.flatnonzero(kinds == CHANGED):
        after[number, random.choice([0, page // 2, page - 1])] = 9
    return before.tobytes(), after.tobytes(), np.bincount(kinds, minlength=5).tolist()


@pytest.fixture
def compared(capsys: pytest.CaptureFixture) -> Run:
    """Runs `pagecheck picture --compare --content --json`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(["picture", "--json", "--content", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def totals(done: tuple[int, str, str]) -> dict[str, int]:
    code, out, err = done
    assert code == 0, err
    found = json.loads(out)
    for name in found["states"]:
        number = found["states"].index(name)
        cells = [cell[number] for span in found["spans"] for cell in span["cells"]]
        assert sum(cells) == found["total"][number]
    return dict(zip(found["states"], found["total"], strict=True))


def expected(kinds: list[int], only: int = 0) -> dict[str, int]:
    return {
        "zero_in_both": kinds[0],
        "same": kinds[1],
        "changed": kinds[2],
        "became_normal": kinds[3],
        "became_zero": kinds[4],
        "undecided": 0,
        "in_one_only": only,
    }


@pytest.mark.parametrize(("pages", "page"), [(1000, 4096), (259, 8192), (11, 2 << 20)])
def test_files_are_compared_page_by_page(
    tmp_path: Path, compared: Run, pages: int, page: int
) -> None:
    before, after, kinds = two_rams(pages, page)
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after + bytes(3 * page))
    done = compared("--compare", tmp_path / "a", tmp_path / "b", "--page-size", page)
    assert totals(done) == expected(kinds, only=3)


def test_a_part_of_files_is_compared(tmp_path: Path, compared: Run) -> None:
    before, after, _ = two_rams(1000)
    (tmp_path / "a").write_bytes(before)
    (tmp_path / "b").write_bytes(after)
    part = slice(100 * 4096, 700 * 4096)
    a, b = (np.frombuffer(each[part], np.uint8).reshape(-1, 4096) for each in (before, after))
    both = a.any(axis=1) & b.any(axis=1)
    differ = (a != b).any(axis=1)
    arguments = ("--offset", 100 * 4096, "--length", 600 * 4096)
    found = totals(compared("--compare", tmp_path / "a", tmp_path / "b", *arguments))
    assert found["changed"] == (both & differ).sum() > 0
    assert found["same"] == (both & ~differ).sum() > 0


@pytest.mark.parametrize("compressed", [False, True])
def test_snapshots_are_compared(tmp_path: Path, compared: Run, compressed: bool) -> None:
    before, after, kinds = two_rams(700)
    make_snapshot(tmp_path / "a", {"ram": before, "vga": before})
    finish = compress_block if compressed else None
    make_snapshot(tmp_path / "b", {"vga": before, "ram": after}, finish=finish)
    found = totals(compared("--compare", tmp_path / "a", tmp_path / "b"))
    assert found["changed"] == kinds[2]
    assert found["became_zero"] == kinds[4]
    assert found["same"] == 2 * kinds[1] + kinds[2] + kinds[4]


def test_what_has_no_content_is_refused(tmp_path: Path, compared: Run) -> None:
    ram = tmp_path / "ram"
    ram.write_bytes(bytes(4096) + b"x" * 4096)
    assert run_command(["scan", str(ram), "--quiet", "--out", str(tmp_path / "out")]) == 0
    code, _out, err = compared("--compare", ram, tmp_path / "out")
    assert code == 2
    assert "has bitmaps and no content" in err
    code, _out, err = compared(ram)
    assert code == 2
    assert "--content goes with --compare" in err
    make_snapshot(tmp_path / "cut", {"ram": ram.read_bytes()})
    with (tmp_path / "cut" / "ram.ram").open("r+b") as file:
        file.truncate(4096)
    code, _out, err = compared("--compare", ram, tmp_path / "cut")
    assert code == 2
    assert "the file became shorter" in err
