"""A survey of files, folders and snapshots on this machine."""

import gzip
import itertools
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pagecheck.errors import UsageError
from pagecheck.survey.api import survey
from pagecheck.survey.find import find
from pagecheck.survey.run import Summary, run_survey
from pagecheck.survey.values import Row
from tests.support.snapshots import make_snapshot
from tests.survey.files import PAGE, memory, zero_pages

# Version 2, clusters of 64 KiB, 1 GiB large, without encryption; its tables follow.
_HEADER = struct.pack(
    ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 1 << 30, 0, 2, 1 << 16, 2 << 16, 1, 0, 0
)
QCOW2 = _HEADER.ljust(4 << 16, b"\0")


def rows(summary: Summary) -> dict[str, Row]:
    return {os.path.basename(row.path): row for row in summary.rows}


def test_each_file_of_a_folder_is_a_row_as_numpy_says(tmp_path: Path) -> None:
    names = {"a": "nzhh", "b/c": "nnnn", "b/d/e": "h" * 40 + "n" * 3, "f": "z"}
    paths = {memory(tmp_path / name, kinds): kinds for name, kinds in names.items()}
    seen: list[Row] = []
    summary = survey([tmp_path], on_row=seen.append)
    assert [row.path for row in summary.rows] == sorted(map(str, paths))
    assert set(seen) == set(summary.rows)
    for path, kinds in paths.items():
        row = rows(summary)[path.name]
        status = path.stat()
        assert (row.bytes, row.allocated) == (status.st_size, status.st_blocks * 512)
        assert (row.pages, row.zero, row.normal) == (
            len(kinds),
            zero_pages(path),
            len(kinds) - zero_pages(path),
        )
        assert (row.hole, row.undecided, row.error) == (kinds.count("h"), 0, None)
    total = summary.total
    assert total.pages == sum(map(len, paths.values()))
    assert total.zero + total.normal == total.pages
    assert summary.failed == 0


def test_a_large_file_is_checked_in_pieces_and_added_up(tmp_path: Path) -> None:
    from pagecheck.survey.local import LocalRunner

    class Small(LocalRunner):
        piece_bytes = 2 << 20

    path = memory(tmp_path / "ram", "nhz" * 500)
    (row,) = run_survey([path], Small(channels=2)).rows
    assert (row.pages, row.zero, row.hole, row.normal) == (1500, 1000, 500, 500)


def test_a_snapshot_is_one_row_by_its_manifest(tmp_path: Path) -> None:
    ram = bytes(3 * PAGE) + b"x" * PAGE
    memory(tmp_path / "store" / "plain", "n")
    make_snapshot(tmp_path / "store" / "vm1", {"pc.ram": ram, "rom": b"y" * PAGE})
    found = rows(survey([tmp_path / "store"]))
    assert set(found) == {"vm1", "plain"}
    row = found["vm1"]
    assert (row.kind, row.bytes, row.pages, row.zero, row.normal) == ("snapshot", 5 * PAGE, 5, 3, 2)
    assert row.bytes_checked == 0


@pytest.mark.parametrize("harm", ["cut", "gone", "more", "manifest"])
def test_a_damaged_snapshot_is_a_row_with_its_reason(tmp_path: Path, harm: str) -> None:
    made = make_snapshot(tmp_path / "vm1", {"pc.ram": b"x" * 4 * PAGE})
    ram = tmp_path / "vm1" / made.blocks[0].file
    if harm == "cut":
        os.truncate(ram, PAGE)
    elif harm == "gone":
        ram.unlink()
    elif harm == "more":
        (tmp_path / "vm1" / "notes").write_text("x")
    else:
        manifest = tmp_path / "vm1" / "manifest.json"
        manifest.write_bytes(manifest.read_bytes().replace(b"pc.ram", b"pc.rom"))
    (row,) = survey([tmp_path]).rows
    assert row.path == str(tmp_path / "vm1")
    assert row.error is not None
    assert row.pages == 0


def test_what_holds_no_memory_is_a_row_with_its_reason(tmp_path: Path) -> None:
    memory(tmp_path / "good", "nz")
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(b"x" * 5000)
    (tmp_path / "disk.qcow2").write_bytes(QCOW2)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(3 * PAGE))[: 2 * PAGE])
    secret = memory(tmp_path / "secret", "n")
    secret.chmod(0)
    found = rows(survey([tmp_path, tmp_path / "missing"]))
    assert found["good"].error is None
    assert "is empty" in str(found["empty"].error)
    assert "is a qcow2 disk image" in str(found["disk.qcow2"].error)
    assert "5000 is not a multiple of the page size" in str(found["odd"].error)
    assert "does not exist" in str(found["missing"].error) or "No such" in str(
        found["missing"].error
    )
    assert str(found["cut.gz"].note).startswith("begins like gzip-compressed data")
    for row in found.values():
        assert not str(row.error).startswith(row.path)
        assert "\n" not in str(row.error)


def test_links_and_special_files_are_not_opened(tmp_path: Path) -> None:
    ram = memory(tmp_path / "in" / "ram", "n")
    outside = memory(tmp_path / "outside", "n")
    (tmp_path / "in" / "link").symlink_to(outside)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    os.mkfifo(tmp_path / "in" / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "in" / "socket"))
        assert set(rows(survey([tmp_path / "in"]))) == {"ram"}
        found = rows(survey([tmp_path / "in" / name for name in ("link", "pipe", "socket")]))
    assert found["link"].error is None
    assert "is a pipe" in str(found["pipe"].error)
    assert "is a socket" in str(found["socket"].error)
    assert ram.exists()


def test_a_file_is_counted_once(tmp_path: Path) -> None:
    ram = memory(tmp_path / "a" / "ram", "nz")
    os.link(ram, tmp_path / "a" / "second")
    summary = survey([tmp_path, tmp_path / "a", ram])
    assert [row.path for row in summary.rows] == [str(ram)]


def test_patterns_stand_for_what_they_match(tmp_path: Path) -> None:
    for name in ("vm1/mem", "vm2/mem", "vm2/log", "vm[3]/mem"):
        memory(tmp_path / name, "n")
    found = [row.path for row in survey([f"{tmp_path}/vm?/mem", f"{tmp_path}/vm[3]/mem"]).rows]
    assert found == [str(tmp_path / name) for name in ("vm1/mem", "vm2/mem", "vm[3]/mem")]
    (row,) = survey([f"{tmp_path}/none*"]).rows
    assert row.error is not None


def test_folders_at_any_depth_whatever_links_lead_in_circles(tmp_path: Path) -> None:
    for name in ("a/mem", "a/b/mem", "a/b/[c]/mem", "a/.hidden/mem", "a/b/log"):
        memory(tmp_path / name, "n")
    for name in ("one", "two", "b/three", "b/four"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    (tmp_path / "named").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "link").symlink_to("mem")
    wanted = {
        "**/mem": ["a/b/[c]/mem", "a/b/mem", "a/mem"],
        "a/**/b/**/m*": ["a/b/[c]/mem", "a/b/mem"],
        "named/**/mem": ["named/[c]/mem", "named/mem"],
        "**/link": ["a/b/link"],
        "a/b/**": ["a/b/[c]/mem", "a/b/log", "a/b/mem"],
    }
    for pattern, names in wanted.items():
        for found in (
            list(find([str(tmp_path / pattern)])),
            list(find([str(tmp_path / pattern)], on_far=lambda *_far: None)),
        ):
            assert [each.path for each in found] == [str(tmp_path / name) for name in names]


def test_names_may_be_any(tmp_path: Path) -> None:
    names = [b"new\nline", b"\xff\xfe", b"=1+1", b"-o", b"\x1b[31m", b"~", b" "]
    for name in names:
        memory(tmp_path / os.fsdecode(name), "n")
    found = survey([os.fsencode(tmp_path)]).rows
    assert {os.fsencode(os.path.basename(row.path)) for row in found} == set(names)
    assert all(row.error is None for row in found)


def test_a_file_that_is_removed_or_cut_meanwhile_is_a_row(tmp_path: Path) -> None:
    from pagecheck.survey.local import LocalRunner

    for name in ("cut", "exchanged", "gone", "left"):
        memory(tmp_path / name, "nnnn")

    class Late(LocalRunner):
        def run(self, pieces, watch):
            found = list(pieces)
            os.truncate(tmp_path / "cut", PAGE)
            (tmp_path / "gone").unlink()
            memory(tmp_path / "new", "nnnn").rename(tmp_path / "exchanged")
            yield from super().run(found, watch)

    found = rows(run_survey([tmp_path], Late()))
    assert "was cut to 4096 bytes" in str(found["cut"].error)
    assert "was replaced" in str(found["exchanged"].error)
    assert "cannot open: No such file" in str(found["gone"].error)
    assert (found["left"].normal, found["left"].error) == (4, None)


def test_a_folder_without_files_is_no_error(tmp_path: Path) -> None:
    summary = survey([tmp_path])
    assert (summary.rows, summary.failed, summary.total.pages) == ((), 0, 0)


@pytest.mark.parametrize(
    ("given", "options"),
    [([], {}), ("a", {}), (Path("a"), {}), (["a"], {"page_size": 5000}), (["a"], {"max_rate": 0})],
)
def test_what_makes_no_sense_is_refused(given: list[str], options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        survey(given, **options)


def test_a_save_that_is_at_work_is_left_out(tmp_path: Path) -> None:
    memory(tmp_path / ".vm1.pagecheck-4711-0123456789abcdef" / "pc.ram.ram", "n")
    (tmp_path / ".vm1.pagecheck-4711-0123456789abcdef" / ".pagecheck-save").touch()
    memory(tmp_path / "ram", "n")
    assert set(rows(survey([tmp_path]))) == {"ram"}


def test_an_empty_path_is_a_row() -> None:
    (row,) = survey([""]).rows
    assert row.error == "is an empty path"


def test_workers_that_are_killed_change_no_row(tmp_path: Path) -> None:
    for number in range(30):
        memory(tmp_path / f"{number:02}", "nzh" * 40)

    left = itertools.cycle([True, False, False])

    def kill(_row: Row) -> None:
        for process in psutil.Process().children() if next(left) else ():
            process.kill()

    found = survey([tmp_path], on_row=kill, channels=2).rows
    assert len(found) == 30
    assert {(row.zero, row.normal, row.undecided, row.error) for row in found} == {
        (80, 40, 0, None)
    }


def test_the_room_can_be_called_whatever_was_loaded_before(tmp_path: Path) -> None:
    memory(tmp_path / "ram", "nz")
    call = f"assert pagecheck.survey([{str(tmp_path)!r}]).total.pages == 2"
    for first in ("", "import pagecheck.survey.values", "from pagecheck import survey"):
        code = f"import pagecheck; {first or 'pass'}; {call}; {call}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
