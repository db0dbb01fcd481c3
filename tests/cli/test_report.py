"""What `pagecheck scan` prints: JSON, table, ranges, and every option that changes it."""

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.command import pagecheck, scan_json
from tests.support.rams import PAGE, sparse_file

COUNTS = ["pages", "zero", "hole", "normal", "undecided", "unchanged", "swapped"]
TYPES = {
    "version": int,
    "source": str,
    "answer": str,
    "engine": str,
    "kernel": str,
    "channels": int,
    "page_size": int,
    "seconds": float,
    "startup_seconds": float,
    "bytes_checked": int,
    "blocks": list,
    "total": dict,
    "notes": list,
    "pause": type(None),
    "why_live": type(None),
    "statistics": dict,
    "workers": list,
}


def assert_sums(report: dict) -> None:
    total = dict.fromkeys(COUNTS, 0)
    for block in report["blocks"]:
        kinds = [block[kind] for kind in ("zero", "normal", "undecided", "unchanged")]
        assert sum(kinds) == block["pages"]
        assert block["hole"] <= block["zero"]
        assert block["bytes"] == block["pages"] * report["page_size"]
        for key in COUNTS:
            total[key] += block[key]
    assert report["total"] == total
    assert report["bytes_checked"] % report["page_size"] == 0


def test_json_schema(ram: Path):
    report = scan_json(ram)
    assert {key: type(value) for key, value in report.items()} == TYPES
    assert report["version"] == 1
    assert report["source"] == str(ram)
    assert report["answer"] == "at-rest"
    assert report["engine"] == "cpu"
    assert report["channels"] == 1
    assert report["page_size"] == PAGE
    assert 0 <= report["startup_seconds"] <= report["seconds"] < 10
    (block,) = report["blocks"]
    assert list(block) == ["name", "bytes", *COUNTS, "files", "regions"]
    assert block["name"] == "guest.ram"
    assert block["files"] == {}
    assert block["regions"] == []
    assert report["pause"] is None
    assert report["notes"] == []
    assert_sums(report)
    assert report["total"] == {
        "pages": 70, "zero": 67, "hole": 65, "normal": 3, "undecided": 0, "unchanged": 0,
        "swapped": 0,
    }  # fmt: skip
    assert report["bytes_checked"] == 5 * PAGE


@pytest.mark.long(but=("--engine", "--channels"))
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--engine", "cpu"], (67, 65, 3)),
        (["--engine", "none"], (0, 0, 70)),
        (["--kernel", "portable"], (67, 65, 3)),
        (["--channels", "3"], (67, 65, 3)),
        (["--batch-pages", "1"], (67, 65, 3)),
        (["--batch-pages", "32768"], (67, 65, 3)),
        (["--holes", "read"], (67, 0, 3)),
        (["--nice", "5"], (67, 65, 3)),
        (["--stall", "0.5"], (67, 65, 3)),
        (["--stall", "inf"], (67, 65, 3)),
        (["--deadline", "20"], (67, 65, 3)),
        (["--deadline", "inf"], (67, 65, 3)),
        (["--max-rate", "1G"], (67, 65, 3)),
        (["--max-rate", "1MiB/s"], (67, 65, 3)),
        (["--offset", "16K"], (63, 62, 3)),
        (["--offset", "20480", "--length", "8K"], (0, 0, 2)),
        (["--length", "20K"], (5, 4, 0)),
        (["-v"], (67, 65, 3)),
        (["--quiet"], (67, 65, 3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(ram: Path, options: list[str], expected: tuple[int, int, int]):
    report = scan_json(*options, ram)
    assert_sums(report)
    total = report["total"]
    assert (total["zero"], total["hole"], total["normal"]) == expected


@pytest.mark.parametrize(
    ("size", "pages", "normal"), [("16K", 4, 2), ("64k", 1, 1), ("2M", 1, 1), ("8K", 8, 2)]
)
def test_page_sizes(folder: Path, size: str, pages: int, normal: int):
    page = {"16K": 16384, "64k": 65536, "2M": 2 << 20, "8K": 8192}[size]
    path = sparse_file(folder / "p", pages * page // PAGE, {0: b"", 1: b"x"})
    with open(path, "r+b") as file:
        file.seek(pages * page - 1)
        file.write(b"x")
    report = scan_json("--page-size", size, path)
    assert_sums(report)
    assert report["page_size"] == page
    assert report["total"]["normal"] == normal


def test_engine_none_reads_nothing(ram: Path):
    os.utime(ram, (1000, 2000))  # a read moves an access time that is older than the last write
    report = scan_json("--engine", "none", ram)
    assert report["kernel"] is None
    assert report["channels"] == report["bytes_checked"] == 0
    assert os.stat(ram).st_atime == 1000
    ram.read_bytes()
    assert os.stat(ram).st_atime > 1000  # so the test can see a read
    os.utime(ram, (1000, 2000))
    scan_json("--holes", "read", ram)
    assert os.stat(ram).st_atime == 1000  # not even the access time moves


def test_looking_changes_nothing(ram: Path):
    before = os.stat(ram)
    for options in ([], ["--holes", "read"], ["--kind", "diff"], ["--page-size", "8K"]):
        scan_json(*options, ram)
    after = os.stat(ram)
    assert (after.st_blocks, after.st_size) == (before.st_blocks, before.st_size)
    assert after.st_mtime_ns == before.st_mtime_ns


def test_table(ram: Path):
    done = pagecheck("scan", ram)
    assert done.returncode == 0
    assert done.stderr == ""
    head, row, summary = done.stdout.splitlines()
    titles = ["block", "size", "pages", "zero", "of which holes", "normal", "undecided"]
    assert all(title in head for title in [*titles, "zero share"])
    assert row.split() == ["guest.ram", "280", "KiB", "70", "67", "65", "3", "0", "95.7", "%"]
    for word in ("engine cpu", "kernel", "1 channel;", "GB/s", "start-up", "at-rest"):
        assert word in summary


def test_ranges(ram: Path):
    done = pagecheck("scan", "--ranges", ram)
    expected = ["0 5 zero", "5 2 normal", "7 57 zero", "64 1 normal", "65 5 zero"]
    assert done.stdout.splitlines() == expected
    done = pagecheck("scan", "--ranges", "--engine", "none", ram)
    assert done.stdout.splitlines() == ["0 70 normal"]
    done = pagecheck("scan", "--ranges", "--kind", "diff", ram)
    assert done.stdout.splitlines()[:4] == [
        "0 3 unchanged",
        "3 1 zero",
        "4 1 unchanged",
        "5 2 normal",
    ]


def test_quiet_and_verbose(ram: Path):
    done = pagecheck("scan", "--quiet", ram)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = pagecheck("scan", "--quiet", "--ranges", ram)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = pagecheck("scan", "-v", "--channels", "2", ram)
    assert "2 channels ready" in done.stderr
    assert all(line.startswith("pagecheck: ") for line in done.stderr.splitlines())


def test_deadline(dense: Path):
    started = time.monotonic()
    report = scan_json("--deadline", "0.6", "--max-rate", "1M", dense, code=1)
    assert time.monotonic() - started < 2.5
    assert_sums(report)
    assert 0 < report["total"]["undecided"] < 1024
    assert "deadline" in report["notes"][0]
    ranges = pagecheck("scan", "--deadline", "0.6", "--max-rate", "1M", "--ranges", dense)
    assert ranges.returncode == 1
    assert ranges.stdout.splitlines()[-1].endswith(" undecided")
    assert "deadline" in ranges.stderr


@pytest.mark.parametrize("rate", ["1", "100"])
def test_deadline_ends_a_rate_that_would_take_hours(dense: Path, rate: str):
    report = scan_json("--deadline", "0.5", "--max-rate", rate, dense, code=1, timeout=8)
    assert report["total"]["undecided"] > 1000


@pytest.mark.parametrize("channels", ["1", "2"])
def test_max_rate_is_kept(dense: Path, channels: str):
    report = scan_json("--max-rate", "4M", "--channels", channels, dense)
    working = report["seconds"] - report["startup_seconds"]
    assert working >= 4 / 4 * 0.8
    assert report["total"]["normal"] == 1024


def test_help_names_the_exit_codes():
    text = pagecheck("scan", "--help").stdout
    for word in ("130", "143", "a shortage (/dev/shm", "--engine", "--stall", "--max-rate"):
        assert word in text
    assert pagecheck("--version").stdout.startswith("pagecheck")


def test_kernels():
    text = pagecheck("kernels").stdout
    kernels = json.loads(pagecheck("kernels", "--json").stdout)["kernels"]
    assert [kernel["auto"] for kernel in kernels].count(True) == 1
    for kernel in kernels:
        assert kernel["name"] in text
        assert kernel["usable"] or kernel["why"]
    assert {"portable"} < {kernel["name"] for kernel in kernels}


def test_deadline_shorter_than_the_start(ram: Path):
    """It is for everything: what is not decided by then is undecided, not an error."""
    report = scan_json("--deadline", "0.000001", ram, code=1)
    total = report["total"]
    assert total["undecided"] == total["pages"] == 70
    assert "deadline" in report["notes"][0]
