"""A file of zeros on a disk whose reads fail, or end early, from some place on: nothing there is
zero, whoever asks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import assert_fails, pagecheck, scan_json
from tests.support.rams import PAGE
from tests.support.stalling_fs import FILE_BYTES, stalling_fs

PAGES = FILE_BYTES // PAGE
GOOD = 101

FAULTS = pytest.mark.parametrize("fault", ["error", "short"])
PLACES = pytest.mark.parametrize("inside", [0, 1, PAGE - 1], ids=["at", "after", "before"])


@FAULTS
@PLACES
@pytest.mark.parametrize("options", [[], ["--page-size", "64K"]], ids=["4K", "64K"])
def test_a_scan(fault: str, inside: int, options: list[str]) -> None:
    place = GOOD * PAGE + inside
    with stalling_fs(frozenset({f"{fault}@{place}"})) as fs:
        report = scan_json("--holes", "read", *options, fs.path, code=1)
    total = report["total"]
    size = FILE_BYTES // total["pages"]
    assert total["zero"] <= place // size
    assert total["normal"] == 0
    assert total["undecided"] == total["pages"] - total["zero"]
    assert report["notes"]


def test_a_good_one() -> None:
    with stalling_fs(frozenset()) as fs:
        assert scan_json("--holes", "read", fs.path)["total"]["zero"] == PAGES


@FAULTS
def test_a_save(fault: str, tmp_path: Path) -> None:
    """No snapshot is made of what could not be read."""
    with stalling_fs(frozenset({f"{fault}@{GOOD * PAGE}"})) as fs:
        done = pagecheck("save", "--quiet", "--live", fs.path, tmp_path / "snap")
    assert_fails(done, done.returncode, "ram")
    assert done.returncode in (1, 2)
    assert not list(tmp_path.iterdir())
