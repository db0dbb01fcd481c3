"""Files of raw guest RAM, saved: the same bytes, the same holes, or nothing at all."""

import json
import os
import random
import resource
import stat
import subprocess
from pathlib import Path

import pytest

import pagecheck
from pagecheck import Coordinator
from pagecheck.errors import OutputError, SourceError, UsageError
from pagecheck.snapshot import checksums, entries, manifest
from tests.support import command
from tests.support.file_systems import mounted
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")
PAGES = 700  # some chunks, the last one shorter


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, shm_folder: Path) -> Path:
    return tmp_path if request.param == "disk" else shm_folder


def content(seed: int = 1) -> dict[int, bytes]:
    """Some pages with data, alone and in runs."""
    rng = random.Random(seed)
    return {page: rng.randbytes(PAGE) for page in range(PAGES) if page % 64 in (0, 5, 6, 7, 63)}


def sparse(path: Path) -> Path:
    return sparse_file(path, PAGES, content())


def dense(path: Path) -> Path:
    data = bytearray(PAGES * PAGE)
    for page, there in content().items():
        data[page * PAGE : (page + 1) * PAGE] = there
    path.write_bytes(data)
    return path


def require_saved(directory: Path, source: Path) -> manifest.Snapshot:
    """Every byte is there, everything that was zero is a hole, and the manifest tells the truth."""
    snapshot = manifest.read(directory)
    block = snapshot.blocks[0]
    saved = directory / block.file
    assert saved.read_bytes() == source.read_bytes()
    assert saved.stat().st_blocks * 512 <= (len(content()) + 2) * PAGE
    assert (block.size, block.zero, block.normal) == (
        PAGES * PAGE,
        PAGES - len(content()),
        len(content()),
    )
    bits = int.from_bytes((directory / block.bitmap.file).read_bytes(), "little")
    assert {page for page in range(PAGES) if not bits >> page & 1} == set(content())
    with saved.open("rb") as file:
        digests = checksums.chunk_digests(file.fileno(), block.size)
    assert (directory / block.chunks.file).read_bytes() == digests
    assert entries.checksum(digests) == block.chunks.checksum
    assert {each.name for each in directory.iterdir()} == {*snapshot.files(), "manifest.json"}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()} == {0o600}
    return snapshot


@pytest.mark.parametrize("make", [sparse, dense])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_same(folder: Path, make: object, channels: int) -> None:
    source = make(folder / "guest.ram")  # type: ignore[operator]
    with source.open("rb") as file:
        os.fsync(file.fileno())  # else its blocks are counted later
    before = source.stat().st_blocks
    report = pagecheck.save(source, folder / "snap", channels=channels)
    snapshot = require_saved(folder / "snap", source)
    assert source.stat().st_blocks == before
    assert (report.exact, snapshot.exact) == (True, True)
    assert (report.pause, snapshot.machine) == (None, None)
    assert snapshot.blocks[0].backend == "file"
    assert report.total.normal == len(content())
    assert report.blocks[0].bytes_stored == len(content()) * PAGE
    assert list(folder.glob(".*")) == []


def test_a_coordinator_saves_as_often_as_it_is_asked(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    with Coordinator(channels=2) as coordinator:
        for number in range(3):
            pagecheck.save(source, tmp_path / f"{number}", coordinator=coordinator)
            require_saved(tmp_path / f"{number}", source)
        with Coordinator(engine="none") as nothing, pytest.raises(UsageError, match="engine none"):
            pagecheck.save(source, tmp_path / "n", coordinator=nothing)


def test_other_names_of_a_file(tmp_path: Path, shm_folder: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    with source.open("rb") as file:
        pagecheck.save(f"fd:{file.fileno()}", tmp_path / "by-fd", channels=1)
    require_saved(tmp_path / "by-fd", source)
    odd = sparse(tmp_path / "qmp:odd name")
    done = command.pagecheck(
        *("save", "--quiet", "--from", odd.name, "snap", "--channels", 1), cwd=tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    require_saved(tmp_path / "snap", odd)


def test_the_command(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    done = command.pagecheck("save", "--json", source, tmp_path / "a", "--channels", 1)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["blocks"][0]["normal"] == len(content())
    assert report["directory"] == str(tmp_path / "a")
    assert (report["exact"], report["pause"], report["ended"]) == (True, None, False)
    done = command.pagecheck("save", source, tmp_path / "b", "--channels", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "complete and synced" in done.stdout
    require_saved(tmp_path / "b", source)


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    (tmp_path / "snap").mkdir()
    done = command.pagecheck("save", source, tmp_path / "snap")
    command.assert_fails(done, 2, "snap: exists")
    assert list((tmp_path / "snap").iterdir()) == []
    assert list(tmp_path.glob(".*")) == []


def test_a_file_that_is_written_is_refused(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    with source.open("r+b"):
        with pytest.raises(SourceError, match=r"open for writing.*--live"):
            pagecheck.save(source, tmp_path / "snap", channels=1)
        assert not (tmp_path / "snap").exists()
        report = pagecheck.save(source, tmp_path / "snap", channels=1, live=True)
    assert (report.exact, require_saved(tmp_path / "snap", source).exact) == (False, False)
    assert any("open for writing" in note for note in report.notes)


def test_what_goes_with_a_vm_only(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    for options in ({"disks": "overlay"}, {"then": "quit"}):
        with pytest.raises(UsageError, match="is a file"):
            pagecheck.save(source, tmp_path / "snap", **options)
    with pytest.raises(UsageError, match="qmp:SOCKET"):
        pagecheck.save(f"pid:{os.getpid()}", tmp_path / "snap")
    command.assert_fails(command.pagecheck("save", source), 2, "SOURCE and DIR")
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_is_no_ram(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"QFI\xfb\0\0\0\3" + bytes(1 << 20))
    with pytest.raises(SourceError, match="qcow2"):
        pagecheck.save(path, tmp_path / "snap")
    assert list(tmp_path.iterdir()) == [path]


def test_no_room(tmp_path: Path, shm_folder: Path) -> None:
    """Refused before anything is copied, as the scan tells; holes alone would fit."""
    with mounted(tmp_path, "tmpfs", "9M") as small:
        source = shm_folder / "guest.ram"
        source.write_bytes(os.urandom(PAGE) * (16 << 8))
        done = command.pagecheck("save", source, small / "snap", "--channels", 1)
        command.assert_fails(done, 2, "takes about 17 MiB", "8 MiB left", "nothing was stopped")
        assert list(small.iterdir()) == []
        os.truncate(source, 0)
        sparse(source)
        os.truncate(source, 1 << 30)
        report = pagecheck.save(source, small / "snap", channels=1)
        assert report.total.normal == len(content())


def test_a_disk_that_becomes_full(
    tmp_path: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagecheck.snapshot.saving.require_room", lambda *_: None)
    with mounted(tmp_path, "tmpfs", "2M") as small:
        source = shm_folder / "guest.ram"
        source.write_bytes(os.urandom(PAGE) * 1024)
        with pytest.raises(OutputError, match="No space left"):
            pagecheck.save(source, small / "snap", channels=2)
        assert list(small.iterdir()) == []


def test_a_limit_on_file_sizes(tmp_path: Path) -> None:
    source = sparse(tmp_path / "guest.ram")
    limit = command.limited(resource.RLIMIT_FSIZE, 1 << 20)
    done = command.pagecheck("save", source, tmp_path / "snap", preexec_fn=limit)
    command.assert_fails(done, 2, "ulimit -f")
    assert list(tmp_path.iterdir()) == [source]


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    source = dense(tmp_path / "guest.ram")
    slow = ["--max-rate", "64K", "--channels", "1"]
    with command.start("save", *slow, source, tmp_path / "snap", stderr=subprocess.PIPE) as running:
        while not list(tmp_path.glob(".snap.*/guest.ram.ram")):
            assert running.poll() is None
        running.send_signal(2)
        assert running.wait(20) == 130
    assert list(tmp_path.iterdir()) == [source]


def test_a_sync_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk did not take gets no name."""
    source = sparse(tmp_path / "guest.ram")

    def fail(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("pagecheck.report.publish.os.fsync", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        pagecheck.save(source, tmp_path / "snap", channels=1)
    assert list(tmp_path.iterdir()) == [source]
