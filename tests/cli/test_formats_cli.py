"""What is no raw RAM: refused, noted, or taken for RAM because the user says so."""

import gzip
import os
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError, UsageError
from tests.support.command import assert_fails, scan_json
from tests.support.command import pagecheck as run
from tests.support.rams import PAGE

RAM = b"x" * PAGE + bytes(7 * PAGE)


@pytest.fixture
def packed(folder: Path) -> Path:
    """A gzip file whose size fits."""
    data = gzip.compress(os.urandom(10 * PAGE))
    (folder / "ram.gz").write_bytes(data + bytes(-len(data) % PAGE))
    return folder / "ram.gz"


@pytest.fixture
def doubtful(folder: Path) -> Path:
    (folder / "ram").write_bytes(b"\x1f\x8b\x08" + RAM[3:])
    return folder / "ram"


def source_of(path: Path, how: str) -> tuple[str, dict[str, object]]:
    if how == "path":
        return str(path), {}
    fd = os.open(path, os.O_RDONLY)
    return f"fd:{fd}", {"pass_fds": [fd]}


@pytest.mark.parametrize("how", ["path", "fd"])
def test_a_container_is_refused(packed: Path, how: str):
    source, options = source_of(packed, how)
    done = run("scan", source, **options)
    assert_fails(done, 2, "gzip-compressed data, not raw guest RAM", "gzip -dc", "--format raw")
    assert done.stdout == ""
    report = scan_json("--format", "raw", source, **options)
    assert report["total"]["normal"] > 0
    assert report["notes"] == []


def test_shared_memory_by_name(folder: Path, packed: Path):
    name = f"pc-cli-format-{os.getpid()}"
    shared = Path("/dev/shm") / name
    shared.write_bytes(packed.read_bytes())
    try:
        assert_fails(run("scan", f"shm:/{name}"), 2, f"gzip -dc /dev/shm/{name}")
    finally:
        shared.unlink()


@pytest.mark.parametrize("options", [(), ("--engine", "none"), ("--offset", "4K")])
def test_a_doubt_is_noted(doubtful: Path, options: tuple[str, ...]):
    report = scan_json(*options, doubtful)
    (note,) = report["notes"]
    assert "begins like gzip-compressed data" in note
    assert scan_json(*options, "--format", "raw", doubtful)["notes"] == []
    assert f"note: {note}\n" in run("scan", doubtful).stdout
    assert f"note: {note}\n" in run("scan", "--ranges", doubtful).stderr


def test_a_wrong_size_names_the_format(folder: Path):
    (folder / "ram.gz").write_bytes(gzip.compress(os.urandom(10 * PAGE)))
    assert_fails(run("scan", folder / "ram.gz"), 2, "gzip-compressed data, not raw guest RAM")


def test_no_work_is_done_before_the_refusal(packed: Path, tmp_path: Path):
    assert_fails(run("scan", "--out", tmp_path / "out", packed), 2, "gzip")
    assert not (tmp_path / "out").exists()


def test_the_library_says_the_same(packed: Path, doubtful: Path):
    with pytest.raises(SourceError, match="not raw guest RAM"):
        pagecheck.scan(packed)
    assert pagecheck.scan(packed, format="raw").total.normal > 0
    with pytest.raises(UsageError, match="format 'qcow2'"):
        pagecheck.scan(packed, format="qcow2")
    with pagecheck.Coordinator(1) as coordinator:
        with pytest.raises(SourceError, match="not raw guest RAM"):
            coordinator.attach(packed)
        coordinator.attach(packed, format="raw")
        block = coordinator.attach(doubtful)
        assert "begins like" in coordinator.scan(block).notes[0]
