"""--out DIR: bitmap files against numpy, names, and what is never overwritten."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.bitmaps import file_bits
from tests.support.command import assert_fails, pagecheck, scan_json, start
from tests.support.processes import is_scanning
from tests.support.rams import PAGE, sparse_file
from tests.support.waiting import wait_for


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
    np.testing.assert_array_equal(file_bits(files["zero"], pages), truth)
    np.testing.assert_array_equal(file_bits(files["normal"], pages), ~truth)
    document = json.loads((out / "report.json").read_text())
    assert sorted(document.pop("written")["files"]) == ["ram.normal", "ram.zero"]
    assert document == report
    assert sorted(os.listdir(out)) == ["ram.normal", "ram.zero", "report.json"]


def test_bitmap_words_are_little_endian(ram: Path, tmp_path: Path):
    scan_json("--out", tmp_path, ram)
    normal = (tmp_path / "guest.ram.normal").read_bytes()
    assert normal == (1 << 5 | 1 << 6 | 1 << 64).to_bytes(16, "little")


def test_diff_has_a_third_bitmap(ram: Path, tmp_path: Path):
    report = scan_json("--kind", "diff", "--out", tmp_path, ram)
    files = report["blocks"][0]["files"]
    found = {kind: set(np.flatnonzero(file_bits(files[kind], 70))) for kind in files}
    assert found == {
        "zero": {3, 69},
        "normal": {5, 6, 64},
        "unchanged": set(range(70)) - {3, 69, 5, 6, 64},
    }


def test_undecided_pages_have_no_bit(dense: Path, tmp_path: Path):
    report = scan_json("--deadline", "0.5", "--max-rate", "1M", "--out", tmp_path, dense, code=1)
    normal = file_bits(report["blocks"][0]["files"]["normal"], 1024)
    assert normal.sum() == report["total"]["normal"]
    assert not file_bits(report["blocks"][0]["files"]["zero"], 1024).any()


def test_engine_none(ram: Path, tmp_path: Path):
    report = scan_json("--engine", "none", "--out", tmp_path, ram)
    assert file_bits(report["blocks"][0]["files"]["normal"], 70).all()


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


@pytest.mark.long(but=("a%20", "new%0A"))
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
    scan_json("--out", tmp_path, "--kind", "diff", ram)
    with open(ram, "r+b") as file:
        file.write(b"x")
    scan_json("--out", tmp_path, ram)
    assert sorted(os.listdir(tmp_path)) == ["guest.ram.normal", "guest.ram.zero", "report.json"]
    assert file_bits(tmp_path / "guest.ram.normal", 70)[0]
    json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize("name", ["guest.ram.zero", "guest.ram.normal", "report.json"])
def test_what_others_wrote_is_kept(ram: Path, tmp_path: Path, name: str):
    """It may be a guest's RAM, whose name ends so, or another tool's bitmap."""
    (tmp_path / name).write_bytes(b"old" * 100000)
    done = pagecheck("scan", "--max-rate", "1", "--out", tmp_path, ram)  # the scan never begins
    assert_fails(done, 2, name, "choose another folder")
    assert (tmp_path / name).read_bytes() == b"old" * 100000
    assert os.listdir(tmp_path) == [name]


def test_nothing_is_left_of_a_scan_that_was_ended(dense: Path, tmp_path: Path):
    out = tmp_path / "new" / "out"
    scan = start("scan", "--max-rate", "64K", "--out", out, dense)
    wait_for(lambda: is_scanning(scan.pid), "the scan has begun")
    assert os.listdir(out) == []
    scan.terminate()
    scan.communicate(timeout=10)
    assert scan.returncode == 143
    assert os.listdir(tmp_path) == []


def test_a_deadline_before_the_start_writes_results_too(dense: Path, tmp_path: Path):
    report = scan_json("--deadline", "0.000001", "--out", tmp_path, dense, code=1)
    assert report["total"]["undecided"] == 1024
    assert sorted(os.listdir(tmp_path)) == ["dense.ram.normal", "dense.ram.zero", "report.json"]
    assert report["blocks"][0]["files"]["zero"] == str(tmp_path / "dense.ram.zero")


def test_a_file_size_limit(ram: Path, tmp_path: Path):
    """The bitmaps fit, the report does not."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))

    done = pagecheck("scan", "--engine", "none", "--out", tmp_path, ram, preexec_fn=small)
    assert done.returncode in (2, 4)
    assert "ulimit -f" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.fixture(params=["vfat", "ext4", "tmpfs"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB: vfat has no links and no unnamed files."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root and mount")
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", path]
    else:
        if shutil.which(f"mkfs.{request.param}") is None:
            pytest.skip(f"needs mkfs.{request.param}")
        with open(tmp_path / "image", "wb") as file:
            file.truncate(1 << 20)
        made = subprocess.run([f"mkfs.{request.param}", tmp_path / "image"], capture_output=True)
        assert made.returncode == 0, made.stderr
        command = ["mount", "-o", "loop", tmp_path / "image", path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount {request.param} here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_on_small_disks(ram: Path, small_disk: Path):
    out = small_disk / "out"
    names = ["guest.ram.normal", "guest.ram.zero", "report.json"]
    for _ in range(2):
        scan_json("--out", out, ram)
        assert sorted(os.listdir(out)) == names
    with open(small_disk / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    before = {name: (out / name).read_bytes() for name in names}
    done = pagecheck("scan", "--out", out, ram)
    assert_fails(done, 2, "No space left")
    assert {name: (out / name).read_bytes() for name in os.listdir(out)} == before
    assert_fails(pagecheck("scan", "--out", small_disk / "new", ram), 2, "No space left")
    assert not (small_disk / "new").exists() or os.listdir(small_disk / "new") == []


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
    done = pagecheck("scan", "--out", out, ram)
    assert_fails(done, 2, str(out), "cannot write")
    if "file" in folder_is:
        assert "is not a folder; --out names one" in done.stderr


def test_bitmap_name_taken_by_a_folder(ram: Path, tmp_path: Path):
    (tmp_path / "guest.ram.zero").mkdir()
    assert_fails(pagecheck("scan", "--out", tmp_path, ram), 2, "guest.ram.zero")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
