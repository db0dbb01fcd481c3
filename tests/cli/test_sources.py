"""Sources of every kind, diffs, and files that change under the command."""

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import PAGECHECK, assert_fails, environment, pagecheck, scan_json, start
from tests.support.processes import has_answers, is_scanning
from tests.support.rams import PAGE, sparse_file
from tests.support.waiting import wait_for


def test_inherited_descriptor_keeps_its_offset(ram: Path):
    fd = os.open(ram, os.O_RDONLY)
    os.lseek(fd, 12345, os.SEEK_SET)
    for options in ([], ["--holes", "read"], ["--kind", "diff"]):
        report = scan_json(*options, f"fd:{fd}", pass_fds=[fd])
        assert report["source"] == report["blocks"][0]["name"] == f"fd:{fd}"
        assert report["total"]["normal"] == 3
        assert os.lseek(fd, 0, os.SEEK_CUR) == 12345
    os.close(fd)


def test_descriptor_of_a_file_that_has_no_name(ram: Path):
    fd = os.open(ram, os.O_RDWR)
    ram.unlink()
    assert scan_json(f"fd:{fd}", pass_fds=[fd])["total"]["normal"] == 3
    os.close(fd)


def test_standard_input_as_the_source(ram: Path):
    with open(ram, "rb") as file:
        assert scan_json("fd:0", stdin=file)["total"]["normal"] == 3
    done = pagecheck("scan", "fd:0", stdin=subprocess.PIPE)
    assert_fails(done, 2, "pipe")


def test_shared_memory_of_somebody_else():
    name = f"pc-cli-shm-{os.getpid()}"
    path = sparse_file(f"/dev/shm/{name}", 10, {4: b"x"})
    try:
        report = scan_json(f"shm:/{name}")
        assert report["total"]["normal"] == 1
        assert report["blocks"][0]["name"] == name
        assert path.stat().st_size == 10 * PAGE  # neither resized nor removed
        with open(path, "r+b"):
            assert scan_json(f"shm:/{name}")["answer"] == "live"
    finally:
        path.unlink()


def test_memfd_of_a_vmm_is_live():
    fd = os.memfd_create("guest")
    os.pwrite(fd, b"x" * PAGE, 0)
    assert scan_json(f"fd:{fd}", pass_fds=[fd])["answer"] == "live"
    os.close(fd)


@pytest.mark.parametrize("where", ["tmpfs", "disk"])
def test_diff(folder: Path, tmp_path: Path, where: str):
    base = folder if where == "tmpfs" else tmp_path
    path = sparse_file(base / "diff", 200, {0: b"x", 1: b"", 100: b"y", 199: b""})
    done = pagecheck("scan", "--kind", "diff", "--json", path)
    if done.returncode == 2 and where == "disk":
        pytest.skip(f"the disk's file system reports no holes: {done.stderr}")
    report = scan_json("--kind", "diff", path)
    counts = {"zero": 2, "hole": 0, "normal": 2, "undecided": 0, "unchanged": 196, "swapped": 0}
    assert report["total"] == {"pages": 200, **counts}
    assert "unchanged" in pagecheck("scan", "--kind", "diff", path).stdout


@pytest.mark.parametrize("page_size", ["8K", "16K", "64K", "2M"])
def test_partial_page_of_a_diff_names_a_size_that_works(folder: Path, page_size: str):
    pages = dict.fromkeys((*range(512, 1022), *range(1024, 1028)), b"x")
    path = sparse_file(folder / "diff", 2048, pages)
    done = pagecheck("scan", "--kind", "diff", "--page-size", page_size, path)
    if page_size == "8K":
        assert done.returncode == 0
        return
    line = assert_fails(done, 2, "part hole, part data", "--page-size")
    size = line.split("--page-size ")[1].split()[0].rstrip(".;,")
    report = scan_json("--kind", "diff", "--page-size", size, path)
    assert report["page_size"] == 8192
    assert report["total"]["unchanged"] == 1024 - 257


def test_partial_page_leaves_no_output(folder: Path, tmp_path: Path):
    path = sparse_file(folder / "diff", 8, {1: b"x"})
    done = pagecheck("scan", "--kind", "diff", "--page-size", "16K", "--out", tmp_path, path)
    assert_fails(done, 2)
    assert os.listdir(tmp_path) == []


def test_empty_diff(folder: Path):
    path = sparse_file(folder / "diff", 64, {})
    assert scan_json("--kind", "diff", path)["total"]["unchanged"] == 64
    assert pagecheck("scan", "--kind", "diff", "--ranges", path).stdout == "0 64 unchanged\n"


def test_cut_while_scanned(dense: Path, tmp_path: Path):
    scan = start("scan", "--json", "--max-rate", "4M", "--out", tmp_path, dense)
    wait_for(lambda: is_scanning(scan.pid), "the scan has begun")
    os.truncate(dense, 100 * PAGE + 5)
    out, err = scan.communicate(timeout=20)
    assert scan.returncode == 1, err
    assert '"undecided": 924' in out
    assert "0x64000" in out
    assert "dense.ram" in out
    normal = np.fromfile(tmp_path / "dense.ram.normal", np.uint8)
    assert np.unpackbits(normal).sum() <= 100


def test_growth_while_scanned(dense: Path):
    scan = start("scan", "--max-rate", "1M", dense)  # 4 s, so that it still runs on a busy machine
    wait_for(lambda: has_answers(scan.pid), "the first answers")
    os.truncate(dense, 2048 * PAGE)
    out, _err = scan.communicate(timeout=20)
    assert scan.returncode == 0
    assert "grew" in out
    assert "live" in out


def test_many_commands_at_once(ram: Path):
    results = []

    def run() -> None:
        results.append(scan_json("--channels", "2", ram)["total"]["normal"])

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [3] * 8


def test_python_of_the_folder_is_not_imported(ram: Path, folder: Path):
    """A file beside the source must not become part of the program."""
    for name in ("json.py", "select.py", "pagecheck.py", "socket.py"):
        (folder / name).write_text("raise SystemExit('imported from the folder')\n")
    done = subprocess.run(
        [PAGECHECK, "scan", "--json", "guest.ram"],
        cwd=folder,
        capture_output=True,
        env={**environment(), "PYTHONSTARTUP": "json.py"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["ram", "pid:1"])
def test_a_path_to_trust_is_qemus(ram: Path, source: str):
    named = str(ram) if source == "ram" else source
    assert_fails(pagecheck("scan", "--trust-path", named), 2, "--trust-path is for the paths that")
