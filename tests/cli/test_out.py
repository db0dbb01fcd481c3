"""--out DIR: bitmap files against numpy, names, and what is never overwritten."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.cli.support import PAGE, assert_fails, bits, pagecheck, scan_json, sparse_file


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 1000, 4097])
def test_bitmaps_are_numpys(folder: Path, tmp_path: Path, pages: int):
    rng = np.random.default_rng(pages)
    choice = rng.integers(0, 3, pages)  # hole, zeros, something
    data = {
        int(page): b"" if choice[page] == 1 else bytes(rng.integers(0, PAGE)) + b"x"
        for page in np.flatnonzero(choice)
    }
    path = sparse_file(folder / "ram", pages, data)
    out = tmp_path / "not" / "there" / "yet"
    report = scan_json("--out", out, path)
    truth = ~np.fromfile(path, np.uint8).reshape(pages, PAGE).any(axis=1)
    files = report["blocks"][0]["files"]
    assert files == {kind: str(out / f"ram.{kind}") for kind in ("zero", "normal")}
    np.testing.assert_array_equal(bits(files["zero"], pages), truth)
    np.testing.assert_array_equal(bits(files["normal"], pages), ~truth)
    assert json.loads((out / "report.json").read_text()) == report
    assert sorted(os.listdir(out)) == ["ram.normal", "ram.zero", "report.json"]


def test_bitmap_words_are_little_endian(ram: Path, tmp_path: Path):
    scan_json("--out", tmp_path, ram)
    normal = (tmp_path / "guest.ram.normal").read_bytes()
    assert normal == (1 << 5 | 1 << 6 | 1 << 64).to_bytes(16, "little")


def test_diff_has_a_third_bitmap(ram: Path, tmp_path: Path):
    report = scan_json("--kind", "diff", "--out", tmp_path, ram)
    files = report["blocks"][0]["files"]
    found = {kind: set(np.flatnonzero(bits(files[kind], 70))) for kind in files}
    assert found == {
        "zero": {3, 69},
        "normal": {5, 6, 64},
        "unchanged": set(range(70)) - {3, 69, 5, 6, 64},
    }


def test_undecided_pages_have_no_bit(dense: Path, tmp_path: Path):
    report = scan_json("--deadline", "0.5", "--max-rate", "1M", "--out", tmp_path, dense, code=1)
    normal = bits(report["blocks"][0]["files"]["normal"], 1024)
    assert normal.sum() == report["total"]["normal"]
    assert not bits(report["blocks"][0]["files"]["zero"], 1024).any()


def test_engine_none(ram: Path, tmp_path: Path):
    report = scan_json("--engine", "none", "--out", tmp_path, ram)
    assert bits(report["blocks"][0]["files"]["normal"], 70).all()


NAMES = {
    b"a b%c": "a%20b%25c",
    b"new\nline": "new%0Aline",
    b"tab\tand\x1b[31m": "tab%09and%1B%5B31m",
    b"\xff\xfe": "%FF%FE",
    "säge".encode(): "s%C3%A4ge",
    b"-v": "-v",
    b"--json": "--json",
    b"colon:fd:3": "colon%3Afd%3A3",
    b"~tilde_.x": "~tilde_.x",
}


@pytest.mark.parametrize("name", NAMES, ids=NAMES.values())
def test_odd_names(folder: Path, tmp_path: Path, name: bytes):
    sparse_file(os.fsencode(folder) + b"/" + name, 3, {1: b"x"})
    report = scan_json("--out", tmp_path, "--", name, cwd=folder)
    assert os.fsencode(report["source"]) == name
    assert sorted(os.listdir(tmp_path)) == sorted(
        [f"{NAMES[name]}.normal", f"{NAMES[name]}.zero", "report.json"]
    )
    for options in ([], ["--ranges"]):
        done = pagecheck("scan", *options, "--", name, cwd=folder, text=False)
        assert done.returncode == 0
        assert done.stdout.count(b"\n") == 3
        assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("name", [b"\xffram", b"new\nline"])
def test_odd_names_in_notes(folder: Path, name: bytes):
    """The note of a deadline or a cut names the source, whatever it is called."""
    path = os.fsencode(folder) + b"/" + name
    sparse_file(path, 500, dict.fromkeys(range(500), b"x"))
    for options in ([], ["--ranges"], ["--json"]):
        done = pagecheck(
            "scan", "--deadline", "0.3", "--max-rate", "400K", *options, path, text=False
        )
        assert done.returncode == 1
        assert b"Traceback" not in done.stderr
        assert b"bug" not in done.stderr


@pytest.mark.parametrize("length", [200, 250, 255])
def test_long_names(folder: Path, tmp_path: Path, length: int):
    """A name that leaves no room for its suffix is refused, before anything is scanned."""
    path = sparse_file(folder / ("n" * length), 1, {})
    done = pagecheck("scan", "--out", tmp_path, path)
    if length == 200:
        assert done.returncode == 0
    else:
        assert_fails(done, 2, "name")


@pytest.mark.parametrize("link", ["symlink", "hard link"])
def test_the_source_is_never_replaced(folder: Path, link: str):
    """DIR/x.zero is the snapshot, scanned under the name x."""
    path = sparse_file(folder / "x.zero", 4, {1: b"precious"})
    before = path.read_bytes()
    inside = folder / "x"
    os.symlink(path, inside) if link == "symlink" else os.link(path, inside)
    assert_fails(pagecheck("scan", "--out", folder, inside), 2, "source")
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", ["path", "fd", "shm"])
def test_a_source_called_report_json(folder: Path, how: str):
    where = folder if how != "shm" else Path("/dev/shm")
    name = "report.json" if how != "shm" else f"pc-cli-{os.getpid()}.json"
    path = sparse_file(where / name, 4, {1: b"precious"})
    before = path.read_bytes()
    try:
        with open(path, "rb") as file:
            source = {"path": path, "fd": f"fd:{file.fileno()}", "shm": f"shm:/{name}"}[how]
            done = pagecheck("scan", "--out", where, source, pass_fds=[file.fileno()])
        if how != "shm":  # no clash there: the report has another name
            assert_fails(done, 2, "source")
        assert path.read_bytes() == before
    finally:
        if how == "shm":
            for each in where.glob(f"{name}*"):
                each.unlink()
            (where / "report.json").unlink()


def test_earlier_results_are_replaced_whole(ram: Path, tmp_path: Path):
    for name in ("guest.ram.zero", "guest.ram.normal", "report.json"):
        (tmp_path / name).write_bytes(b"old" * 100000)
    scan_json("--out", tmp_path, ram)
    assert len(bits(tmp_path / "guest.ram.zero", 70)) == 70
    json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize("folder_is", ["a file", "below a file", "in proc", "a dangling link"])
def test_folder_that_cannot_be_written(ram: Path, tmp_path: Path, folder_is: str):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    out = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "x",
        "in proc": "/proc/x",
        "a dangling link": tmp_path / "dangling",
    }[folder_is]
    assert_fails(pagecheck("scan", "--out", out, ram), 2, str(out), "cannot write")


def test_bitmap_name_taken_by_a_folder(ram: Path, tmp_path: Path):
    (tmp_path / "guest.ram.zero").mkdir()
    assert_fails(pagecheck("scan", "--out", tmp_path, ram), 2, "guest.ram.zero")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
