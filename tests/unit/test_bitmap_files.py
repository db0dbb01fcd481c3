"""`--out DIR`: every file complete or not there, and the source never replaced."""

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from pagecheck import bitmap_files
from pagecheck.errors import OutputError
from pagecheck.model import Counts, RamBlock
from pagecheck.report import BlockReport, Report


def make_report(name: str = "pc.ram", *, diff: bool = False) -> Report:
    def words(fill: int) -> memoryview:
        return memoryview(bytes([fill]) * 16)

    ram = RamBlock(name, 70 * 4096, 4096)
    block = BlockReport(ram, Counts(70), words(1), words(2), words(3) if diff else None)
    return Report("s", "at-rest", "cpu", "avx2", 1, 4096, 1.0, 0.1, 0, (block,))


def test_files_of_a_full_scan(tmp_path: Path) -> None:
    report = bitmap_files.write(make_report(), tmp_path)
    assert report.blocks[0].files == {
        "zero": str(tmp_path / "pc.ram.zero"),
        "normal": str(tmp_path / "pc.ram.normal"),
    }
    assert sorted(os.listdir(tmp_path)) == ["pc.ram.normal", "pc.ram.zero", "report.json"]
    assert (tmp_path / "pc.ram.zero").read_bytes() == b"\1" * 16
    assert (tmp_path / "pc.ram.normal").read_bytes() == b"\2" * 16
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_json()


def test_a_diff_has_one_more(tmp_path: Path) -> None:
    bitmap_files.write(make_report(diff=True), tmp_path)
    assert (tmp_path / "pc.ram.unchanged").read_bytes() == b"\3" * 16


@pytest.mark.parametrize("name", ["fd:3", "/objects/mem 0", "../../x", "a%b", "ü"])
def test_names_are_percent_encoded(tmp_path: Path, name: str) -> None:
    bitmap_files.write(make_report(name), tmp_path)
    assert f"{quote(name, safe='')}.zero" in os.listdir(tmp_path)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    bitmap_files.write(make_report(os.fsdecode(b"\xff.ram")), tmp_path)
    assert "%FF.ram.zero" in os.listdir(tmp_path)


def test_the_umask_counts(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        bitmap_files.write(make_report(), tmp_path)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o640


def test_an_older_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    old = tmp_path / "pc.ram.zero"
    old.write_bytes(b"old")
    with old.open("rb") as reader:
        bitmap_files.write(make_report(), tmp_path)
        assert reader.read() == b"old"
    assert old.read_bytes() == b"\1" * 16


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pc.ram.zero").write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bitmap_files.os, "replace", refuse)
    with pytest.raises(OutputError, match=r"pc\.ram\.zero: .*No space left"):
        bitmap_files.write(make_report(), tmp_path)
    assert os.listdir(tmp_path) == ["pc.ram.zero"]
    assert (tmp_path / "pc.ram.zero").read_bytes() == b"old"


def test_an_interrupt_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bitmap_files.os, "chmod", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bitmap_files.write(make_report(), tmp_path)
    assert os.listdir(tmp_path) == []


def test_prepare_makes_the_folder_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    bitmap_files.prepare(tmp_path / "a" / "b", "pc.ram", str(tmp_path / "src"))
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/none"])
def test_prepare_refuses_what_cannot_be_written(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write there"):
        bitmap_files.prepare(tmp_path / folder, "pc.ram", "src")


@pytest.mark.parametrize("way", ["itself", "link"])
def test_prepare_refuses_to_replace_the_source(tmp_path: Path, way: str) -> None:
    source = tmp_path / "report.json"
    source.write_bytes(b"ram")
    named = source
    if way == "link":
        named = tmp_path / "link"
        named.symlink_to(source)
    with pytest.raises(OutputError, match="is the source itself"):
        bitmap_files.prepare(tmp_path, "pc.ram", str(named))
    assert source.read_bytes() == b"ram"


def test_prepare_refuses_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        bitmap_files.prepare(tmp_path / "out", "\u00fc" * 60, "src")
    assert not (tmp_path / "out").exists()
