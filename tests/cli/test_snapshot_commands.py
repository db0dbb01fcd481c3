"""`pagecheck verify` and `pagecheck info`: what they print, and what they end with."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_terminal import on_terminal
from tests.support.command import assert_fails, pagecheck, start
from tests.support.needs import needs_program
from tests.support.snapshots import PAGE, make_snapshot, some_ram

PAGES = 3000


@pytest.fixture(scope="module")
def snap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "vm1"
    make_snapshot(path, {"pc.ram": some_ram(PAGES), "\x1b[2Jvga": bytes(16 * PAGE)})
    return path


def zero_pages(snap: Path) -> list[int]:
    bits = np.unpackbits(np.fromfile(snap / "pc.ram.zero", np.uint8), bitorder="little")
    return [int(page) for page in np.flatnonzero(bits)]


def test_verify(snap: Path) -> None:
    done = pagecheck("verify", snap)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{snap}: whole: 8 files, 11.8 MiB in ")
    assert done.stdout.count("\n") == 1


def test_verify_quietly(snap: Path) -> None:
    done = pagecheck("verify", "--quiet", snap)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_verify_as_json(snap: Path) -> None:
    done = pagecheck("verify", "--json", snap)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found.pop("seconds") > 0
    assert found == {
        "version": 1,
        "made_by": "pagecheck tests",
        "created": "2026-01-31T12:00:00Z",
        "blocks": ["pc.ram", "\x1b[2Jvga"],
        "files": 8,
        "bytes_checked": sum(each.stat().st_size for each in snap.iterdir()),
    }


def test_verify_what_is_damaged(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "vm", {"pc.ram": some_ram(PAGES)})
    with open(tmp_path / "vm" / "pc.ram.ram", "r+b") as file:
        file.seek(1500 * PAGE)
        file.write(b"damaged")
    done = pagecheck("verify", tmp_path / "vm")
    said = "pages 1280 to 1535 of 3000 are not as they were saved"
    assert_fails(done, 5, "pc.ram.ram: block pc.ram is damaged", said)
    done = pagecheck("verify", "--json", tmp_path / "vm")
    assert json.loads(done.stdout)["error"]["class"] == "SnapshotError"


@pytest.mark.parametrize("command", ["verify", "info"])
def test_what_is_not_a_snapshot(tmp_path: Path, command: str) -> None:
    assert_fails(pagecheck(command, tmp_path), 5, "manifest.json: does not exist")
    assert_fails(pagecheck(command, tmp_path / "none"), 2, "none: does not exist")
    assert_fails(pagecheck(command, ""), 2, "an empty path: does not exist")
    assert_fails(pagecheck(command, "/dev/null"), 2, "/dev/null: is not a directory")
    (tmp_path / "loop").symlink_to("loop")
    assert_fails(pagecheck(command, tmp_path / "loop"), 2, "loop: cannot be read: Too many levels")
    assert_fails(pagecheck(command), 2, "Missing argument 'DIR'")


@pytest.mark.parametrize("rate", ["0", "-1", "x"])
def test_rates_that_are_none(snap: Path, rate: str) -> None:
    assert_fails(pagecheck("verify", "--max-rate", rate, snap), 2)


def test_verify_is_ended_at_once(snap: Path) -> None:
    before = sorted(os.listdir(snap))
    running = start("verify", "--max-rate", "64K", snap)
    while not _reads_ram(running.pid):
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=10)
    assert (running.returncode, out, err) == (130, "", "pagecheck: interrupted\n")
    assert sorted(os.listdir(snap)) == before


def _reads_ram(pid: int) -> bool:
    """Whether a process has the RAM file open."""
    folder = f"/proc/{pid}/fd"
    try:
        links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    except OSError:
        return False
    return any("pc.ram.ram" in each for each in links)


def test_info(snap: Path) -> None:
    done = pagecheck("info", snap)
    zero = len(zero_pages(snap))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["block", "size", "pages", "zero", "normal"]
    share = f"{1000 * zero // PAGES / 10} %"
    row = f"pc.ram 11.7 MiB 3,000 {zero:,} {PAGES - zero:,} {share} private sparse"
    assert lines[1].split() == row.split()
    assert lines[2].split()[0] == r"\x1b[2Jvga"
    assert "100.0 %" in lines[2]
    assert lines[3].startswith("made by pagecheck tests, 2026-01-31T12:00:00Z; ")
    assert lines[3].endswith("; exact: the RAM did not change meanwhile")
    assert lines[4] == "qemu 7.2.9 x86_64 pc-i440fx-7.2, 2 virtual CPUs"
    assert lines[5].startswith("disk virtio0: /images/a.qcow2: kept as of that moment; ")


def test_where_the_zero_pages_are(snap: Path, tmp_path: Path) -> None:
    done = pagecheck("info", "--ranges", snap)
    assert done.returncode == 0
    runs = [line.split() for line in done.stdout.splitlines()]
    found = [
        page
        for address, size, kind in runs[:-1]
        if kind == "zero"
        for page in range(int(address, 16) // PAGE, (int(address, 16) + int(size, 16)) // PAGE)
    ]
    assert found == zero_pages(snap)
    assert runs[-1] == ["0x0", f"{16 * PAGE:#x}", "zero"]
    scanned = pagecheck("scan", "--ranges", snap / "pc.ram.ram")
    zero = [line.split()[:2] for line in scanned.stdout.splitlines() if line.endswith("zero")]
    asked = json.loads(pagecheck("info", "--ranges", "--json", snap).stdout)["zero_runs"]
    assert asked["pc.ram"] == [[int(first), int(count)] for first, count in zero]


def test_info_as_json(snap: Path) -> None:
    found = json.loads(pagecheck("info", "--json", snap).stdout)
    manifest = json.loads((snap / "manifest.json").read_text())
    del manifest["checksum"]
    assert found["manifest"] == manifest
    assert found["bytes_on_disk"] == sum(each.stat().st_blocks * 512 for each in snap.iterdir())


def test_of_memory_files(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "vm", {"ram": some_ram(10)}, machine=None, state=None)
    done = pagecheck("info", tmp_path / "vm")
    assert done.stdout.splitlines()[-1] == "of memory files: there is no VM to restore"


def test_folders_are_completed(tmp_path: Path) -> None:
    environment = {"COMP_WORDS": "pagecheck verify /t", "COMP_CWORD": "2"}
    done = pagecheck(env={**os.environ, **environment, "_PAGECHECK_COMPLETE": "bash_complete"})
    assert done.stdout == "dir,/t\n"


@pytest.mark.parametrize(
    "words",
    [
        "info SNAP",
        "verify SNAP",
        "verify --quiet --json SNAP",
        "restore SNAP --ram NEW",
        "restore --json --quiet SNAP --ram NEW",
        "save --from SNAP/pc.ram.ram NEW",
        "punch SNAP/pc.ram.ram",
        "clone SNAP -n 2 --json -- qemu-system-x86_64",
    ],
)
def test_nothing_is_done_whose_answer_would_be_lost(snap: Path, tmp_path: Path, words: str) -> None:
    given = [w.replace("SNAP", str(snap)).replace("NEW", f"{tmp_path}/new") for w in words.split()]
    done = pagecheck(*given, preexec_fn=lambda: os.close(1))
    assert_fails(done, 2, "standard output is closed, and the answer goes there; redirect it")
    assert os.listdir(tmp_path) == []


def test_an_answer_that_cannot_be_printed_leaves_a_whole_snapshot(
    snap: Path, tmp_path: Path
) -> None:
    with open("/dev/full", "w") as full:
        given = {"stdout": full, "stderr": subprocess.PIPE, "capture_output": False}
        done = pagecheck("save", "--from", snap / "pc.ram.ram", tmp_path / "new", **given)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot write the output: No space left" in done.stderr
    assert pagecheck("verify", tmp_path / "new").returncode == 0


def test_a_bar_on_a_terminal(snap: Path) -> None:
    out, shown, code = on_terminal("verify", "--json", "--max-rate", "5M", snap)
    assert code == 0
    assert b"verifying" in shown
    assert json.loads(out)["files"] == 8


@pytest.mark.parametrize("words", [["restore", "--ram", "new"], ["clone", "-n", "2"]])
def test_a_command_without_its_dashes(snap: Path, words: list[str]) -> None:
    # As click says it, of whichever version.
    line = r"pagecheck: No such option:? '?-m'?\.? \(QEMU's command goes after --\)\n"
    done = pagecheck(*words, snap, "qemu-system-x86_64", "-m", "1G")
    assert done.returncode == 2
    assert re.fullmatch(line, done.stderr), done.stderr
    done = pagecheck(*words, snap, "--nothing", "--", "qemu-system-x86_64", "-m", "1G")
    assert done.returncode == 2
    assert "after --" not in done.stderr


@pytest.mark.parametrize("option", ["--qmp-folder", "--overlay-folder"])
def test_clones_leave_the_snapshot_as_it_is(snap: Path, option: str) -> None:
    needs_program("qemu-system-x86_64", "qemu-system-x86")
    for inside in (snap, snap / "clones"):
        done = pagecheck("clone", snap, "-n", "1", option, inside, "--", "qemu-system-x86_64")
        assert_fails(done, 2, f"{inside}", "is in the directory of a snapshot")
    assert pagecheck("verify", snap).returncode == 0
