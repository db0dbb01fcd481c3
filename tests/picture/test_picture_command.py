"""`pagecheck picture`: sources, options, and the files that it writes and those that it leaves."""

import json
import os
import resource
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagecheck as api
from pagecheck.cli.main import run_command
from pagecheck.errors import OutputError
from pagecheck.model import Region
from pagecheck.picture import sources
from pagecheck.picture.output import PictureFile
from pagecheck.report.bitmap_files import Output
from pagecheck.report.ledger import listed, sealed
from pagecheck.report.report import BlockReport
from tests.picture.worlds import HOLE, NORMAL, PAGE, ZERO, States, block_of, counted, report_of
from tests.support.command import Done, assert_fails, limited, pagecheck, tagged_processes
from tests.support.needs import needs_library
from tests.support.service import ServiceProcess
from tests.support.snapshots import make_snapshot, some_ram
from tests.support.stalling_fs import stalling_fs
from tests.support.waiting import wait_for

Run = Callable[..., Done]
Counted = Callable[..., dict]
PAGES = 700


def make_file(path: Path, seed: int = 1) -> States:
    """A sparse file; what each of its pages is."""
    random = np.random.default_rng(seed)
    states = random.choice([ZERO, HOLE, NORMAL], PAGES).repeat(3)[:PAGES].astype(np.uint8)
    with path.open("wb") as file:
        file.truncate(PAGES * 4096)
        for page in np.flatnonzero(states != HOLE):
            file.seek(int(page) * 4096)
            file.write(bytes(4095) + bytes([int(states[page] == NORMAL)]))
    return states


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    make_file(tmp_path / "ram")
    return tmp_path / "ram"


@pytest.fixture
def picture(capsys: pytest.CaptureFixture) -> Callable[..., Done]:
    """Runs `pagecheck picture` in this process, which takes a tenth of the time."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        code = run_command(["picture", *map(str, arguments)])
        said = capsys.readouterr()
        return Done((), code, said.out, said.err)

    return run


@pytest.fixture
def cells(picture: Run) -> Callable[..., dict]:
    """The counts of the cells by `--json`."""

    def run(*arguments: object, code: int = 0) -> dict:
        done = picture("--json", *arguments)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    return run


def test_json_has_the_counts_of_the_cells(cells: Counted, tmp_path: Path) -> None:
    states = make_file(tmp_path / "ram")
    found = cells(tmp_path / "ram", "--cells", 50)
    assert found["states"] == ["zero", "hole", "normal", "undecided", "unchanged"]
    assert found["cell_pages"] == 16
    assert found["total"] == counted(states, PAGES)[0]
    assert found["page_size"] == 4096
    (span,) = found["spans"]
    assert span.pop("cells") == counted(states, 16)
    assert span == {"block": "ram", "first_page": 0, "pages": PAGES, "address": None}


def test_a_diff_has_unchanged_pages(cells: Counted, tmp_path: Path) -> None:
    states = make_file(tmp_path / "ram")
    found = cells(tmp_path / "ram", "--kind", "diff")
    assert found["total"] == [
        (states == ZERO).sum(), 0, (states == NORMAL).sum(), 0, (states == HOLE).sum()
    ]  # fmt: skip


def test_a_snapshot_is_read_from_its_bitmaps(cells: Counted, tmp_path: Path) -> None:
    blocks = {"pc.ram": some_ram(300), "vga": some_ram(70, seed=2)}
    make_snapshot(tmp_path / "saved", blocks)
    for file in (tmp_path / "saved").glob("*.ram"):
        file.unlink()  # not looked at
    found = cells(tmp_path / "saved", "--cells", 100)
    for span, (name, content) in zip(found["spans"], blocks.items(), strict=True):
        pages = np.frombuffer(content, np.uint8).reshape(-1, 4096).any(axis=1)
        assert span["block"] == name
        assert span["address"] == 0
        assert span["cells"] == counted(pages * np.uint8(NORMAL), found["cell_pages"])


def test_a_damaged_snapshot_is_refused(picture: Run, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "saved", {"ram": some_ram(64)})
    zero = tmp_path / "saved" / "ram.zero"
    zero.write_bytes(bytes(8))
    assert_fails(picture(tmp_path / "saved"), 5, "ram.zero", "damaged")


def test_bitmaps_of_a_scan_are_read_again(
    cells: Counted, picture: Run, tmp_path: Path, ram: Path
) -> None:
    for kind in ("full", "diff"):
        out = tmp_path / kind
        api.scan(str(ram), kind=kind, channels=1, out=str(out))
        found = cells(out)
        scanned = cells(ram, "--kind", kind)
        if kind == "full":  # bitmap files do not say which zero pages are holes
            zero, hole, *others = scanned["total"]
            scanned["total"] = [zero + hole, 0, *others]
        assert found["total"] == scanned["total"]
    (out / "ram.zero").write_bytes(bytes(88))
    done = picture(out)
    assert_fails(done, 2, "ram.zero", "'pagecheck scan --out'")
    (out / "report.json").write_text("{}")
    assert_fails(picture(out), 2, "report.json", "'pagecheck scan --out'")
    (tmp_path / "empty").mkdir()
    assert_fails(picture(tmp_path / "empty"), 2, "manifest.json", "report.json")


def test_what_became_of_a_file(cells: Counted, picture: Run, tmp_path: Path) -> None:
    before, after = make_file(tmp_path / "a", 1), make_file(tmp_path / "b", 2)
    found = cells("--compare", tmp_path / "a", tmp_path / "b", "--cells", 100)
    was, now = before == NORMAL, after == NORMAL
    expected = np.select([was & now, ~was & now, was & ~now], [1, 2, 3], 0)
    wanted = [np.bincount(expected[at : at + 8], minlength=6).tolist() for at in range(0, PAGES, 8)]
    assert found["spans"][0]["cells"] == wanted
    done = picture("--compare", tmp_path / "a", tmp_path / "b")
    assert f"became zero: {wanted_total(wanted, 3)} pages" in done.stdout


def wanted_total(wanted: list[list[int]], state: int) -> int:
    return sum(each[state] for each in wanted)


@pytest.mark.parametrize("name", ["map.png", "map.html", "MAP.HTM"])
def test_a_picture_appears_and_is_replaced(
    picture: Run, tmp_path: Path, ram: Path, name: str
) -> None:
    needs_library("PIL", "picture")
    for _again in range(2):
        done = picture(ram, "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{name}: ")
        assert not done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["ram", name])
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~_umask()
    quiet = picture(ram, "-o", tmp_path / name, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_print_is_grey(picture: Run, tmp_path: Path, ram: Path) -> None:
    needs_library("PIL", "picture")
    from PIL import Image

    assert picture(ram, "-o", tmp_path / "a.png", "--print").returncode == 0
    assert Image.open(BytesIO((tmp_path / "a.png").read_bytes())).mode == "L"
    assert_fails(picture(ram, "--print"), 2, "--print is for a PNG")


def test_nothing_but_a_picture_is_replaced(picture: Run, tmp_path: Path, ram: Path) -> None:
    other = tmp_path / "page.html"
    other.write_text("<!DOCTYPE html>\n<title>mine</title>")
    link, pipe = tmp_path / "link.html", tmp_path / "pipe.html"
    link.symlink_to(other)
    os.mkfifo(pipe)
    source = tmp_path / "ram.png"
    ram.rename(source)
    (tmp_path / "folder.html").mkdir()
    for name in ("page.html", "link.html", "pipe.html", "ram.png", "folder.html"):
        done = picture(source, "-o", tmp_path / name)
        assert_fails(done, 2, name, "not a picture that pagecheck made")
    assert other.read_text().endswith("mine</title>")
    assert link.is_symlink()


def test_no_picture_is_put_into_a_snapshot(picture: Run, tmp_path: Path, ram: Path) -> None:
    make_snapshot(tmp_path / "saved", {"ram": some_ram(64)})
    for source in (ram, tmp_path / "saved"):
        done = picture(source, "-o", tmp_path / "saved" / "map.html")
        assert_fails(done, 2, "in the directory of a snapshot")


@pytest.mark.parametrize(
    ("name", "words"),
    [("map.gif", "NAME.png nor NAME.html"), ("none/map.html", "No such file"), ("", "NAME.png")],
)
def test_bad_names(picture: Run, ram: Path, name: str, words: str) -> None:
    assert_fails(picture(ram, "-o", name and ram.parent / name), 2, words)


def test_a_full_disk_leaves_the_old_picture(picture: Run, tmp_path: Path) -> None:
    make_snapshot(tmp_path / "saved", {"ram": some_ram(8)})
    page = tmp_path / "map.html"
    assert picture(tmp_path / "saved", "-o", page).returncode == 0
    old = page.read_bytes()
    small = limited(resource.RLIMIT_FSIZE, 8192)
    done = pagecheck("picture", tmp_path / "saved", "-o", page, preexec_fn=small)
    assert_fails(done, 2, "map.html", "ulimit -f")
    assert page.read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.html", "saved"]


def test_what_appears_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with PictureFile(str(tmp_path / "map.html")) as file:
        (tmp_path / "map.html").write_text("somebody's")
        with pytest.raises(OutputError, match="left as it is"):
            file.write(b"<!DOCTYPE html>")
    assert (tmp_path / "map.html").read_text() == "somebody's"
    assert [path.name for path in tmp_path.iterdir()] == ["map.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "SOURCE"),
        (("RAM", "--compare", "RAM", "RAM"), "SOURCE"),
        (("--compare", "RAM", "RAM", "--kind", "diff"), "--kind diff"),
        (("RAM", "--cells", "0"), "--cells"),
        (("SAVED", "--pause"), "--pause is for a scan"),
        (("RAM", "--pause"), "a VM is paused by its VMM's socket"),
        (("none", "--json"), "none"),
    ],
)
def test_what_is_refused(
    picture: Run, tmp_path: Path, ram: Path, arguments: tuple, words: str
) -> None:
    make_snapshot(tmp_path / "saved", {"ram": some_ram(8)})
    given = [{"RAM": ram, "SAVED": tmp_path / "saved"}.get(each, each) for each in arguments]
    assert_fails(picture(*given), 2, words)


def test_undecided_pages_are_an_exit_code(cells: Counted, tmp_path: Path, ram: Path) -> None:
    found = cells(ram, "--deadline", "0.000001", code=1)
    assert found["total"] == [0, 0, 0, PAGES, 0]


def test_letters_in_a_pipe(ram: Path) -> None:
    done = pagecheck("picture", ram)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "normal: " in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("operation", ["GETATTR", "READ"])
def test_a_file_system_that_does_not_answer(
    picture: Run, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ANSWER_S", 0.2)
    with stalling_fs(frozenset({operation})) as fs:
        done = picture(fs.path, "--deadline", "0.5")
        assert_fails(done, 1, fs.path, "undecided")
    wait_for(lambda: not tagged_processes(), "the end of what was left")


def test_an_output_that_does_not_answer(
    picture: Run, ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "ANSWER_S", 0.2)
    with stalling_fs(frozenset({"GETATTR"})) as fs:
        done = picture(ram, "-o", os.path.join(os.path.dirname(fs.path), "map.html"))
        assert_fails(done, 2, "map.html", "cannot be written", "timed out")


@pytest.mark.parametrize("wrong", ["overlap", "padding"])
def test_bitmaps_that_contradict_each_other_are_refused(
    picture: Run, tmp_path: Path, wrong: str
) -> None:
    """Their digests are right: whoever makes the report makes those."""
    words = bytes([3]) + bytes(7) if wrong == "overlap" else bytes(7) + bytes([128])
    states = np.full(10, ZERO, np.uint8)
    block = block_of(states)._replace(zero=memoryview(bytes([3]) + bytes(7)))
    block = block._replace(normal=memoryview(words))
    assert_fails(
        picture(bitmaps(tmp_path / "out", block)), 2, "report.json", "'pagecheck scan --out'"
    )


def bitmaps(folder: Path, *blocks: BlockReport) -> Path:
    """A folder as `scan --out` makes it, of anything; its digests are right."""
    with Output(folder, [each.block.name for each in blocks], "full", []) as output:
        output.write(report_of(*blocks))
    return folder


@pytest.mark.parametrize("address", ["0x1000", None, 0.5, -4096, True, 1 << 64, []])
def test_regions_that_are_none_are_refused(picture: Run, tmp_path: Path, address: Any) -> None:
    block = block_of(np.zeros(10, np.uint8), regions=(Region(address, 8192, 0, 0),))
    done = picture(bitmaps(tmp_path / "out", block))
    assert_fails(done, 2, "report.json", "'pagecheck scan --out'")


def test_two_blocks_of_a_name_are_refused(picture: Run, tmp_path: Path) -> None:
    """A comparison would show one of them."""
    block = block_of(np.zeros(10, np.uint8))
    folder = bitmaps(tmp_path / "out", block)
    document = json.loads((folder / "report.json").read_text())
    document["blocks"] *= 2
    text = sealed(document, listed((folder / "report.json").read_bytes()))
    (folder / "report.json").write_bytes(text)
    assert_fails(picture(folder), 2, "report.json", "'pagecheck scan --out'")


@pytest.mark.parametrize("start", [0, 3 * PAGE])
def test_addresses_in_a_report_are_right_or_not_shown(
    cells: Counted, tmp_path: Path, start: int
) -> None:
    """Where in its file a block begins, as by QEMU's memory-backend-file,offset=, is not there."""
    regions = (Region(0, 4 * PAGE, 0, start), Region(1 << 32, 6 * PAGE, 0, start + 4 * PAGE))
    block = block_of(np.zeros(10, np.uint8), regions=regions)
    block = block._replace(block=block.block._replace(start=start))
    found = cells(bitmaps(tmp_path / "out", block))
    known = [(0, 0), (4, 1 << 32)]
    spans = [(each["first_page"], each["address"]) for each in found["spans"]]
    assert spans == ([(0, None)] if start else known)


def test_too_many_regions_are_not_shown(cells: Counted, tmp_path: Path) -> None:
    pages = sources.REGIONS_MAX + 1
    parts = tuple(Region(2 * page * PAGE, PAGE, 0, page * PAGE) for page in range(pages))
    states = np.zeros(pages, np.uint8)
    found = cells(bitmaps(tmp_path / "out", block_of(states, regions=parts)))
    assert [each["address"] for each in found["spans"]] == [None]
    assert "too many regions" in found["notes"][-1]
    few = cells(bitmaps(tmp_path / "few", block_of(states, regions=parts[1:])))
    assert len(few["spans"]) == pages
    assert few["notes"] == []


def test_a_service_scans(cells: Counted, service: ServiceProcess, short_folder: Path) -> None:
    states = make_file(short_folder / "ram")
    found = cells(short_folder / "ram", "--via", service.path)
    assert found["total"] == counted(states, PAGES)[0]
