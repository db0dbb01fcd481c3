"""The answer kind that the command reports, on file systems that report writers and others."""

import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import PAGECHECK, pagecheck, scan_json
from tests.support.needs import needs_program, unavailable
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")


@contextmanager
def in_front_of(behind: Path, front: Path) -> Iterator[None]:
    """A FUSE file system that passes everything on."""
    needs_program("bindfs", "bindfs")
    front.mkdir()
    done = subprocess.run(["bindfs", str(behind), str(front)], capture_output=True, text=True)
    if done.returncode != 0:
        unavailable(f"needs FUSE: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(front)], check=True)


def test_written_behind_fuse(tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    behind.mkdir()
    sparse_file(behind / "vm", 16, {1: b"x"})
    with in_front_of(behind, tmp_path / "front"):
        with (behind / "vm").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0] = 1
            report = scan_json(tmp_path / "front" / "vm")
        assert report["answer"] == "live"
        assert "FUSE" in report["why_live"]
        assert ["FUSE" in note for note in report["notes"]] == [True]
        assert "FUSE" in pagecheck("scan", tmp_path / "front" / "vm").stdout


def test_a_file_of_somebody_else(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a file away and to drop CAP_LEASE")
    path = sparse_file(tmp_path / "vm", 16, {1: b"x"})
    assert scan_json(path)["answer"] == "at-rest"
    os.chown(path, 65534, 65534)
    os.chmod(path, 0o644)
    assert scan_json(path)["answer"] == "at-rest"  # CAP_LEASE
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-lease", PAGECHECK, "scan", str(path)],
        capture_output=True,
        text=True,
    )
    assert "note: " in done.stdout
    assert "only its owner, or a process with CAP_LEASE" in done.stdout


def test_ram_of_a_running_vm(shm_folder: Path) -> None:
    """Open for writing, or of no name: said, but no note."""
    path = sparse_file(shm_folder / "ram", 16, {1: b"x"})
    with path.open("r+b"):
        report = scan_json(path)
        table = pagecheck("scan", path).stdout
    assert (report["answer"], report["notes"]) == ("live", [])
    assert report["why_live"] == "ram: somebody has it open for writing"
    assert "live: ram: somebody has it open for writing" in table
    fd = os.memfd_create("ram")
    os.truncate(fd, 16 * PAGE)
    report = scan_json(f"fd:{fd}", pass_fds=[fd])
    os.close(fd)
    assert (report["answer"], report["notes"]) == ("live", [])
    assert "without a name" in report["why_live"]
