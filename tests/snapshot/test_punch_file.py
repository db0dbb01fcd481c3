"""Zero pages of a file at rest become holes; a file that somebody else has is left alone."""

import fcntl
import json
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError, UsageError
from pagecheck.snapshot import punch_file
from tests.support.command import assert_fails, start
from tests.support.command import pagecheck as command
from tests.support.file_systems import mounted
from tests.support.rams import huge, sparse_file
from tests.support.users import in_a_child, needs_root
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("clean")

PAGE, MIB = 4096, 1 << 20


def fill(path: Path, pages: int = 2048, seed: int = 1) -> bytes:
    """Runs of zero pages, normal pages and holes; gives the content."""
    choice = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(pages * PAGE)
        at = 0
        while at < pages:
            count = min(choice.choice((1, 2, 7, 300)), pages - at)
            kind = choice.choice("hzn")
            content = bytes(count * PAGE) if kind == "z" else b"\0" * 4000 + b"n" * 96
            if kind != "h":
                os.pwrite(file.fileno(), content * (1 if kind == "z" else count), at * PAGE)
            at += count
        os.fsync(file.fileno())
    return path.read_bytes()


def allocated(path: Path) -> int:
    return os.stat(path).st_blocks * 512


def normal_bytes(content: bytes, unit: int = PAGE) -> int:
    return sum(unit for at in range(0, len(content), unit) if any(content[at : at + unit]))


def zeros(path: Path, size: int) -> Path:
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
    return path


@pytest.mark.parametrize(
    ("kind", "size", "make", "options"),
    [
        ("ext4", "64M", ("-b", "4096"), ""),
        ("xfs", "300M", (), ""),
        ("btrfs", "200M", (), ""),
        ("tmpfs", "64M", (), ""),
        ("tmpfs", "64M", (), ",huge=always"),
    ],
    ids=["ext4", "xfs", "btrfs", "tmpfs", "huge tmpfs"],
)
def test_on_real_file_systems(
    tmp_path: Path, kind: str, size: str, make: tuple[str, ...], options: str
) -> None:
    with mounted(tmp_path, kind, size, *make, options=options) as at:
        path = at / "ram"
        content = fill(path)
        before = allocated(path)
        report = pagecheck.punch(path)
        assert path.read_bytes() == content
        assert report.freed_bytes == before - allocated(path) > 0
        assert report.zero_bytes > 0
        if kind == "tmpfs":
            assert allocated(path) == normal_bytes(content)
        assert (report.proof, report.why_incomplete) == ("lease", None)
        again = pagecheck.punch(path)
        assert (again.zero_bytes, again.freed_bytes) == (0, 0)
        assert path.read_bytes() == content


def test_huge_pages_are_given_back_whole() -> None:
    try:
        pool = huge(4)
        ram = pool.__enter__()
    except OSError as error:
        pytest.skip(str(error))
    try:
        os.ftruncate(ram.fd, 4 * 2 * MIB)
        for number in range(4):
            ram.write(b"\0", number * 2 * MIB)
        ram.write(b"x", 3 * MIB + 5)  # in the second huge page
        before = allocated(Path(f"/proc/self/fd/{ram.fd}"))
        assert before == 8 * MIB
        report = pagecheck.punch(ram.source, nobody_writes=True)
        assert report.blocks[0].unit_bytes == 2 * MIB
        assert (report.zero_bytes, report.freed_bytes) == (6 * MIB, 6 * MIB)
        with mmap.mmap(ram.fd, 2 * MIB, offset=2 * MIB, prot=mmap.PROT_READ) as page:
            assert page[MIB + 5] == ord("x")
    finally:
        pool.__exit__(None, None, None)


HAVE = """
import mmap, os, sys
_, path, how = sys.argv
for_writing = how.endswith("for writing")
fd = os.open(path, os.O_RDWR if for_writing else os.O_RDONLY)
if how.startswith("mapped"):
    mode = mmap.PROT_READ | (mmap.PROT_WRITE if for_writing else 0)
    kept = mmap.mmap(fd, 0, mmap.MAP_SHARED, mode)
    os.close(fd)
print("have", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[[Path, str], int]]:
    """Starts a process that has a file "open" or "mapped" only, either "for writing", too."""
    running = []

    def begin(path: Path, how: str) -> int:
        words = [sys.executable, "-I", "-c", HAVE, str(path), how]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"have\n"
        return process.pid

    yield begin
    for process in running:
        process.communicate()


@pytest.mark.parametrize("how", ["open", "open for writing", "mapped", "mapped for writing"])
def test_a_file_that_another_process_has_is_left_alone(
    shm_folder: Path, another: Callable[[Path, str], int], how: str
) -> None:
    path = zeros(shm_folder / "ram", 2 * MIB)
    pid = another(path, how)
    text = rf"in use: process {pid} \(python[0-9.]*\) has it {how}; .*--nobody-writes"
    for dry in (False, True):
        with pytest.raises(SourceError, match=text):
            pagecheck.punch(path, dry_run=dry)
    assert allocated(path) == 2 * MIB
    report = pagecheck.punch(path, nobody_writes=True)
    assert (report.proof, report.freed_bytes, allocated(path)) == ("user", 2 * MIB, 0)


def test_who_wants_the_file_meanwhile_gets_it(shm_folder: Path) -> None:
    path = zeros(shm_folder / "ram", 64 * MIB)
    opened = []

    def watch(done: int, total: int) -> None:
        if 0 < done < total and not opened:
            with pytest.raises(BlockingIOError):  # it would wait for the lease
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            opened.append(done)

    report = pagecheck.punch(path, max_rate=64 * MIB, progress=watch)
    assert opened
    assert report.why_incomplete is not None
    assert "wants to open" in report.why_incomplete
    assert 0 < report.zero_bytes < 64 * MIB
    assert allocated(path) == 64 * MIB - report.zero_bytes
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # the lease is gone
    assert pagecheck.punch(path).why_incomplete is None


def test_a_file_that_shrinks_although_nobody_was_to_write(shm_folder: Path) -> None:
    path = zeros(shm_folder / "ram", 64 * MIB)

    def watch(done: int, _total: int) -> None:
        if done:
            os.truncate(path, 20 * MIB)

    report = pagecheck.punch(path, max_rate=64 * MIB, nobody_writes=True, progress=watch)
    assert report.why_incomplete is not None
    assert os.stat(path).st_size == 20 * MIB


def test_a_dry_run_changes_nothing_and_tells_the_same(shm_folder: Path) -> None:
    path = shm_folder / "ram"
    content = fill(path)
    before = os.stat(path)
    dry = pagecheck.punch(path, dry_run=True)
    after = os.stat(path)
    assert (after.st_blocks, after.st_mtime_ns) == (before.st_blocks, before.st_mtime_ns)
    done = pagecheck.punch(path)
    assert (dry.dry_run, dry.zero_bytes, dry.freed_bytes) == (True, done.zero_bytes, 0)
    assert done.freed_bytes == done.zero_bytes > 0
    assert path.read_bytes() == content


def test_larger_holes_only(shm_folder: Path) -> None:
    path = sparse_file(shm_folder / "ram", 1024, dict.fromkeys(range(1024), b""))
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"x", 600 * PAGE)
    assert pagecheck.punch(path, page_size=2 * MIB).zero_bytes == 2 * MIB
    assert allocated(path) == 2 * MIB


def test_data_that_begins_inside_a_larger_unit(shm_folder: Path) -> None:
    path = sparse_file(shm_folder / "ram", 64, {3: b"", 17: b"", 18: b"x", 40: b""})
    content = path.read_bytes()
    report = pagecheck.punch(path, page_size=16 * PAGE)
    assert report.zero_bytes == 2 * 16 * PAGE
    assert report.freed_bytes == 2 * PAGE
    assert path.read_bytes() == content


def test_the_rest_of_the_last_page_stays(shm_folder: Path) -> None:
    path = shm_folder / "ram"
    path.write_bytes(bytes(2 * PAGE + 100))
    assert pagecheck.punch(path).zero_bytes == 2 * PAGE
    assert path.read_bytes() == bytes(2 * PAGE + 100)


def test_sealed_memory_is_refused() -> None:
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, bytes(PAGE))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
        with pytest.raises(SourceError, match="sealed against writing"):
            pagecheck.punch(f"fd:{fd}", nobody_writes=True)
    finally:
        os.close(fd)


def test_a_descriptor_is_its_owners(shm_folder: Path) -> None:
    path = zeros(shm_folder / "ram", MIB)
    fd = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(SourceError, match="whoever passed it on may write to it"):
            pagecheck.punch(f"fd:{fd}")
        assert pagecheck.punch(f"fd:{fd}", nobody_writes=True).freed_bytes == MIB
    finally:
        os.close(fd)


@needs_root
def test_who_may_not_write_may_not_punch(shm_folder: Path) -> None:
    path = zeros(shm_folder / "ram", MIB)
    path.parent.chmod(0o755)
    path.chmod(0o644)

    def work() -> None:
        with pytest.raises(SourceError, match="cannot be opened for writing: Permission denied"):
            pagecheck.punch(path)

    in_a_child(work)
    path.chmod(0o666)

    def lease() -> None:
        with pytest.raises(SourceError, match="only its owner"):
            pagecheck.punch(path)

    in_a_child(lease)
    assert allocated(path) == MIB


def test_a_file_system_without_holes(shm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> tuple[int, int]:
        raise OSError(95, "Operation not supported")

    path = zeros(shm_folder / "ram", MIB)
    monkeypatch.setattr(punch_file._native, "punch_zero", refuse)
    with pytest.raises(SourceError, match=r"its file system cannot .*the 0 bytes"):
        pagecheck.punch(path)
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # the lease is gone


def test_a_kernel_that_is_wrong_punches_nothing(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zeros(shm_folder / "ram", MIB)
    monkeypatch.setattr(punch_file._native, "kernel_self_check", lambda _name: False)
    with pytest.raises(pagecheck.PagecheckError, match="fails its self-test"):
        pagecheck.punch(path)
    assert allocated(path) == MIB


@pytest.mark.parametrize(
    "options", [{"max_rate": 0}, {"page_size": 5000}, {"max_pause": 0}], ids=lambda o: next(iter(o))
)
def test_invalid_arguments(shm_folder: Path, options: dict) -> None:
    with pytest.raises(UsageError):
        pagecheck.punch(zeros(shm_folder / "ram", MIB), **options)


def test_the_command(shm_folder: Path) -> None:
    path = zeros(shm_folder / "ram", 2 * MIB)
    done = command("punch", "--dry-run", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "would be freed" in done.stdout
    done = command("punch", "--json", path)
    report = json.loads(done.stdout)
    assert (report["version"], report["proof"], report["freed_bytes"]) == (1, "lease", 2 * MIB)
    assert report["blocks"][0]["allocated_after"] == 0
    done = command("punch", path)
    assert done.stdout.splitlines()[1].split()[:3] == ["ram", "2", "MiB"]
    assert_fails(command("punch", shm_folder / "none"), 2, "No such file")
    assert command("punch", "--quiet", path).stdout == ""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_ended_in_the_middle(shm_folder: Path, number: int, code: int) -> None:
    path = zeros(shm_folder / "ram", 64 * MIB)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"x" * 9, 40 * MIB)
    with start("punch", "--max-rate", "20M", path) as process:
        wait_for(lambda: allocated(path) < 64 * MIB, "it begins")
        process.send_signal(number)
        _out, said = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in said
    assert 0 < allocated(path) < 64 * MIB
    assert path.read_bytes() == bytes(40 * MIB) + b"x" * 9 + bytes(24 * MIB - 9)
    assert pagecheck.punch(path).why_incomplete is None
    assert allocated(path) == PAGE
