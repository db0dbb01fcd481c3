"""A file of zeros on a disk whose reads fail, or end early, from some place on: nothing there is
zero, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pagecheck as package
from pagecheck.errors import SnapshotError
from pagecheck.snapshot.files import Folder
from tests.support.command import assert_fails, pagecheck, scan_json
from tests.support.rams import PAGE
from tests.support.snapshots import make_snapshot
from tests.support.stalling_fs import FILE_BYTES, StallingFs, stalling_fs

PAGES = FILE_BYTES // PAGE
GOOD = 101

FAULTS = pytest.mark.parametrize("fault", ["error", "short"])
PLACES = pytest.mark.parametrize("inside", [0, 1, PAGE - 1], ids=["at", "after", "before"])


@pytest.mark.long(but="4K")
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


def on_bad_disk(monkeypatch: pytest.MonkeyPatch, fs: StallingFs) -> None:
    """A snapshot's RAM file is the one there."""
    usual = Folder.open
    monkeypatch.setattr(
        Folder,
        "open",
        lambda self, name: fs.open() if name.endswith(".ram") else usual(self, name),
    )


@pytest.mark.long(but="verify")
@FAULTS
@PLACES
@pytest.mark.parametrize("what", ["verify", "restore", "onto"])
def test_a_snapshot(
    fault: str, inside: int, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is restored of what could not be read, and zeros are no guess for it."""
    saved, ram = tmp_path / "saved", tmp_path / "ram"
    make_snapshot(saved, {"pc.ram": bytes(FILE_BYTES)})
    old = b"y" * FILE_BYTES
    if what == "onto":
        ram.write_bytes(old)
    with stalling_fs(frozenset({f"{fault}@{GOOD * PAGE + inside}"})) as fs:
        on_bad_disk(monkeypatch, fs)
        use: Callable[[], object] = {
            "verify": lambda: package.verify(saved),
            "restore": lambda: package.restore(saved, ram),
            "onto": lambda: package.restore(saved, ram, onto=True),
        }[what]
        with pytest.raises(SnapshotError, match=r"pc\.ram\.ram: block pc\.ram cannot be read"):
            use()
    assert ram.exists() == (what == "onto")
    assert not ram.exists() or ram.read_bytes() == old


def test_a_good_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_snapshot(tmp_path / "saved", {"pc.ram": bytes(FILE_BYTES)})
    with stalling_fs(frozenset()) as fs:
        on_bad_disk(monkeypatch, fs)
        package.verify(tmp_path / "saved")


@FAULTS
def test_a_punch(fault: str) -> None:
    """It asks for no file of a file system that need not answer."""
    with stalling_fs(frozenset({f"{fault}@0"})) as fs:
        for vouched in ([], ["--nobody-writes"]):
            assert_fails(pagecheck("punch", *vouched, fs.path), 2, fs.path, "need not answer")
