"""`--out DIR`: all files or none, and nothing of anybody else's replaced, whatever goes wrong."""

import errno
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from pagecheck.errors import OutputError
from pagecheck.report import publish
from pagecheck.report.bitmap_files import Output
from tests.support.outputs import FILES, contents, make_report, write


@pytest.fixture(params=["unnamed", "renamed", "linked", "plain", "copied"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system knows: O_TMPFILE; else RENAME_NOREPLACE; else link(2); else neither;
    or O_TMPFILE, but no name for such a file."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EINVAL, "not here")

    real_open = os.open

    def no_tmpfile(path: str, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real_open(path, flags, *more, **named)  # type: ignore[arg-type]

    if request.param == "copied":
        monkeypatch.setattr(publish.Draft, "_link", refuse)
    elif request.param != "unnamed":
        monkeypatch.setattr(publish.os, "open", no_tmpfile)
    if request.param in ("linked", "plain"):
        monkeypatch.setattr(publish, "_rename_no_replace", refuse)
    if request.param == "plain":
        monkeypatch.setattr(publish, "_link_and_unlink", refuse)
    return str(request.param)


def test_files_of_a_full_scan(tmp_path: Path, way: str) -> None:
    report = write(tmp_path)
    assert report.blocks[0].files == {
        "zero": str(tmp_path / "pc.ram.zero"),
        "normal": str(tmp_path / "pc.ram.normal"),
    }
    assert sorted(os.listdir(tmp_path)) == FILES
    assert (tmp_path / "pc.ram.zero").read_bytes() == b"\1" * 16
    assert (tmp_path / "pc.ram.normal").read_bytes() == b"\2" * 16
    document = json.loads((tmp_path / "report.json").read_text())
    written = document.pop("written")
    assert document == report.to_json()
    assert sorted(written["files"]) == FILES[:2]


def test_a_diff_has_one_more(tmp_path: Path) -> None:
    write(tmp_path, diff=True)
    assert (tmp_path / "pc.ram.unchanged").read_bytes() == b"\3" * 16


@pytest.mark.parametrize("name", ["fd:3", "/objects/mem 0", "../../x", "a%b", "ü"])
def test_names_are_percent_encoded(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert f"{quote(name, safe='')}.zero" in os.listdir(tmp_path)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    write(tmp_path, os.fsdecode(b"\xff.ram"))
    assert "%FF.ram.zero" in os.listdir(tmp_path)
    write(tmp_path, os.fsdecode(b"\xff.ram"), fill=4)


def test_the_umask_counts(tmp_path: Path, way: str) -> None:
    old = os.umask(0o027)
    try:
        write(tmp_path / "new")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert (tmp_path / "new" / "report.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


# Runs into a folder of ours.


def test_a_rerun_replaces_what_the_first_wrote(tmp_path: Path, way: str) -> None:
    write(tmp_path)
    with (tmp_path / "pc.ram.zero").open("rb") as reader:
        write(tmp_path, fill=4)
        assert reader.read() == b"\1" * 16
    assert sorted(os.listdir(tmp_path)) == FILES
    assert (tmp_path / "pc.ram.zero").read_bytes() == b"\5" * 16


def test_a_full_scan_takes_the_diff_s_third_file_away(tmp_path: Path) -> None:
    write(tmp_path, diff=True)
    write(tmp_path)
    assert sorted(os.listdir(tmp_path)) == FILES


def test_results_of_several_sources_stay_ours(tmp_path: Path) -> None:
    for name in ("a", "b", "a", "b", "a"):
        write(tmp_path, name)
    assert sorted(os.listdir(tmp_path)) == [
        *("a.normal", "a.zero", "b.normal", "b.zero", "report.json")
    ]


def test_an_unknown_third_file_stays(tmp_path: Path) -> None:
    (tmp_path / "pc.ram.unchanged").write_bytes(b"mine")
    write(tmp_path)
    assert (tmp_path / "pc.ram.unchanged").read_bytes() == b"mine"
    with pytest.raises(OutputError, match=r"pc\.ram\.unchanged: exists"):
        write(tmp_path, diff=True)


# What is in the way.


def block_with(path: Path, how: str) -> None:
    if how == "a file":
        path.write_bytes(os.urandom(100))
    elif how == "an empty file":
        path.touch()
    elif how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a symbolic link":
        path.symlink_to(path.parent.parent / "elsewhere")
    elif how == "a symbolic link to ours":
        path.rename(path.parent / "moved")
        path.symlink_to("moved")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))


THINGS = ("a file", "an empty file", "a folder", "a pipe", "a symbolic link", "a socket")


@pytest.mark.parametrize("how", THINGS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_in_the_way_is_refused_and_kept(tmp_path: Path, name: str, how: str) -> None:
    block_with(tmp_path / name, how)
    before = os.lstat(tmp_path / name)
    with pytest.raises(OutputError, match=f"{name}: ") as caught:
        Output(tmp_path, ["pc.ram"], "full", [])
    assert "choose another folder" in str(caught.value)
    assert os.listdir(tmp_path) == [name]
    assert os.lstat(tmp_path / name).st_mtime_ns == before.st_mtime_ns
    assert not (tmp_path.parent / "elsewhere").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_ours_is_foreign(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    block_with(tmp_path / name, "a symbolic link to ours")
    with pytest.raises(OutputError, match=f"{name}: is a symbolic link"):
        write(tmp_path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" ")


def edit_report(path: Path) -> None:
    document = json.loads(path.read_text())
    document["notes"].append("mine")
    path.write_text(json.dumps(document))


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a bitmap grew": ("pc.ram.zero", append),
    "a bitmap is another one": ("pc.ram.zero", lambda path: path.write_bytes(b"x" * 16)),
    "a report with somebody's notes": ("report.json", edit_report),
    "an empty report": ("report.json", lambda path: path.write_bytes(b"")),
    "no report": ("pc.ram.normal", lambda path: (path.parent / "report.json").unlink()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_not_ours_any_more(tmp_path: Path, change: str) -> None:
    name, edit = CHANGES[change]
    write(tmp_path)
    edit(tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="exists, and is not"):
        Output(tmp_path, ["pc.ram"], "full", [])
    assert contents(tmp_path) == before


def test_a_report_in_another_layout_is_still_ours(tmp_path: Path) -> None:
    write(tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    (tmp_path / "report.json").write_text(json.dumps(document))
    write(tmp_path, fill=4)
    assert (tmp_path / "pc.ram.zero").read_bytes() == b"\5" * 16


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"written": 1}', b'{"written": {"sha256": 1}}', b"[" * 100000]
)
def test_a_report_of_another_shape_is_foreign(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "report.json").write_bytes(text)
    with pytest.raises(OutputError, match=r"report\.json: exists"):
        Output(tmp_path, ["pc.ram"], "full", [])


def test_a_foreign_file_of_a_hidden_name_stays(tmp_path: Path) -> None:
    (tmp_path / ".pagecheck-unfinished-1").write_bytes(b"mine")
    (tmp_path / ".pagecheck-2").mkdir()
    write(tmp_path)
    write(tmp_path, fill=4)
    hidden = [".pagecheck-2", ".pagecheck-unfinished-1"]
    assert sorted(os.listdir(tmp_path)) == [*hidden, *FILES]


# Between the look and the end.


@pytest.mark.parametrize("name", FILES)
def test_what_appears_meanwhile_is_kept(tmp_path: Path, way: str, name: str) -> None:
    with Output(tmp_path, ["pc.ram"], "full", []) as output:
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(OutputError, match="meanwhile"):
            output.write(make_report())
    assert contents(tmp_path) == {name: b"mine"}


@pytest.mark.parametrize("name", FILES)
def test_what_changes_meanwhile_is_kept(tmp_path: Path, way: str, name: str) -> None:
    write(tmp_path)
    with Output(tmp_path, ["pc.ram"], "full", []) as output:
        (tmp_path / name).write_bytes(b"mine")
        before = contents(tmp_path)
        with pytest.raises(OutputError, match=f"{name}: was put there or changed meanwhile"):
            output.write(make_report(fill=4))
    assert contents(tmp_path) == before


def test_a_folder_that_was_replaced_meanwhile(tmp_path: Path) -> None:
    """The results go where they were promised, not where a name now leads."""
    (tmp_path / "out").mkdir()
    (tmp_path / "other").mkdir()
    with Output(tmp_path / "out", ["pc.ram"], "full", []) as output:
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "out").symlink_to("other")
        output.write(make_report())
    assert sorted(os.listdir(tmp_path / "moved")) == FILES
    assert os.listdir(tmp_path / "other") == []


# The folder.


def test_the_folder_is_made_and_goes_again_where_nothing_was_written(tmp_path: Path) -> None:
    with Output(tmp_path / "a" / "b", ["pc.ram"], "full", []):
        assert os.listdir(tmp_path / "a" / "b") == []
    assert os.listdir(tmp_path) == []
    (tmp_path / "a").mkdir()
    with Output(tmp_path / "a" / "b", ["pc.ram"], "full", []):
        (tmp_path / "a" / "b" / "mine").touch()
    assert os.listdir(tmp_path / "a" / "b") == ["mine"]


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("file", "is not a folder; --out names one"),
        ("file/below", "file is not a folder"),
        ("dangling", "is a dangling symbolic link"),
        ("/proc/none", "cannot write there"),
    ],
)
def test_a_folder_that_cannot_be(tmp_path: Path, folder: str, why: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OutputError, match="cannot write there") as caught:
        Output(tmp_path / folder, ["pc.ram"], "full", [])
    assert why in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.parametrize("way_to", ["itself", "link", "hard link"])
def test_the_source_is_never_replaced(tmp_path: Path, way_to: str) -> None:
    source = tmp_path / "report.json"
    source.write_bytes(b"ram")
    named = source
    if way_to == "link":
        named = tmp_path / "link"
        named.symlink_to(source)
    elif way_to == "hard link":
        named = tmp_path / "link"
        named.hardlink_to(source)
    with pytest.raises(OutputError, match="is the source itself"):
        Output(tmp_path, ["pc.ram"], "full", [str(named)])
    assert source.read_bytes() == b"ram"


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="too long"):
        Output(tmp_path / "out", ["\u00fc" * 60], "full", [])
    assert not (tmp_path / "out").exists()


def test_no_descriptor_is_left(tmp_path: Path, clean: None) -> None:
    write(tmp_path / "out")
    write(tmp_path / "out")
    (tmp_path / "out" / "pc.ram.zero").write_bytes(b"mine")
    with pytest.raises(OutputError):
        write(tmp_path / "out")


def test_modes_are_those_of_any_new_file(tmp_path: Path, way: str) -> None:
    write(tmp_path / "out")
    (tmp_path / "plain").touch()
    wanted = (tmp_path / "plain").stat().st_mode
    for name in FILES:
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == stat.S_IMODE(wanted)
