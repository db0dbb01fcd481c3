"""Looking changes nothing, remembers nothing and does not call live RAM exact."""

import ctypes
import mmap
import os

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.coordinator.scan import ScanWork
from tests.support.known_ram import KnownRam, assert_scan_is_right
from tests.support.rams import PAGE

ACCESS = pytest.mark.parametrize("access", ["map", "read"])


@ACCESS
@pytest.mark.parametrize("holes", ["trust", "read"])
def test_a_hole_that_gets_written_is_seen(access: str, holes: str):
    """Nothing is answered from memory, in scans and in checks alike."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 256 * PAGE)
    offsets = np.arange(256) * PAGE
    with Coordinator(1) as c:
        block = c.attach(f"fd:{fd}", access=access, holes=holes)
        written = set()
        for page in (0, 255, 100, 101, 7):
            assert set(np.flatnonzero(~c.check(block, offsets).zero)) == written
            assert c.scan(block).total.normal == len(written)
            os.pwrite(fd, b"x", page * PAGE + 4095)
            written.add(page)
        assert set(np.flatnonzero(~c.check(block, offsets).zero)) == written
        os.ftruncate(fd, 0)
        os.ftruncate(fd, 256 * PAGE)
        assert c.check(block, offsets).zero.all()
    os.close(fd)


@ACCESS
@pytest.mark.parametrize("holes", ["trust", "read"])
@pytest.mark.parametrize("spare", [0, 512], ids=["plain", "blocks past the end"])
def test_looking_allocates_nothing(access: str, holes: str, spare: int):
    """Also where blocks past the end (fallocate --keep-size) make the file look dense."""
    fd = os.memfd_create("ram")
    size = 256 * PAGE
    os.ftruncate(fd, size)
    for page in range(0, 256, 3):
        os.pwrite(fd, b"x" if page % 2 else b"\0", page * PAGE)
    if spare:
        _keep_size(fd, size, spare * PAGE)
    before = os.fstat(fd).st_blocks
    with Coordinator(2) as c:
        block = c.attach(f"fd:{fd}", access=access, holes=holes)
        normal = np.array([page % 3 == 0 and page % 2 == 1 for page in range(256)])
        assert (c.check(block, np.arange(256) * PAGE).zero == ~normal).all()
        assert (c.check(block, np.arange(255, -1, -1) * PAGE).zero == ~normal[::-1]).all()
        assert c.scan(block).total.normal == normal.sum()
    assert os.fstat(fd).st_blocks == before
    os.close(fd)


def test_diff_with_blocks_past_the_end_keeps_its_holes():
    """An unchanged page called zero would lose a guest's memory."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 256 * PAGE)
    os.pwrite(fd, b"x" * PAGE, 0)
    _keep_size(fd, 256 * PAGE, 512 * PAGE)
    with Coordinator(1) as c:
        counts = c.scan(c.attach(f"fd:{fd}"), kind="diff").total
        assert (counts.normal, counts.unchanged, counts.zero) == (1, 255, 0)
    os.close(fd)


KEEP_SIZE, PUNCH_HOLE = 1, 2  # linux/falloc.h


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    assert libc.fallocate(fd, mode, offset, length) == 0


def _keep_size(fd: int, offset: int, length: int) -> None:
    _fallocate(fd, KEEP_SIZE, offset, length)


@pytest.mark.parametrize("kind", ["memfd", "shm", "disk"])
@pytest.mark.parametrize("writer", ["descriptor", "mapping"])
def test_ram_that_somebody_may_write_is_live(tmp_path, kind: str, writer: str):
    """A store to shared memory leaves no trace in the file's times, so it is a hint at most."""
    path = tmp_path / "ram" if kind == "disk" else f"/dev/shm/pc-test-{os.getpid()}"
    if kind == "memfd":
        fd = os.memfd_create("guest")
        path = f"/proc/self/fd/{fd}"
    else:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(fd, b"\0" * 64 * PAGE, 0)
    memory = mmap.mmap(fd, 64 * PAGE)  # it keeps a descriptor of its own
    memory.write(bytes(64 * PAGE))  # first stores move the file's times, later ones do not
    memory.seek(0)
    try:
        with Coordinator(1) as c:
            if writer == "mapping" and kind != "memfd":
                os.close(fd)
                fd = -1
            block = c.attach(path)
            assert c.scan(block, progress=lambda *_: memory.write_byte(1)).answer == "live"
    finally:
        memory.close()
        if fd >= 0:
            os.close(fd)
        if kind != "memfd":
            os.unlink(path)


def test_bitmaps_go_with_their_report(ram: KnownRam):
    def open_bitmaps() -> list[str]:
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [link for link in links if os.path.exists(link) or os.path.islink(link)]

    with Coordinator(1) as c:
        block = c.attach(ram.source)
        c.scan(block)
        before = len(open_bitmaps())
        for _ in range(10):
            c.scan(block)
        assert len(open_bitmaps()) == before
        report = c.scan(block)
    assert_scan_is_right(report, ram)  # still there after close


def test_a_file_that_was_dense_and_grew_keeps_its_holes():
    """Memory that is plugged in must not hide the blocks that a balloon gave back."""
    fd = os.memfd_create("ram")
    size = 256 * PAGE
    os.pwrite(fd, b"x" * size, 0)
    with Coordinator(1) as c:
        block = c.attach(f"fd:{fd}", access="map")
        offsets = np.arange(256) * PAGE
        assert not c.check(block, offsets).zero.any()
        _fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 64 * PAGE, 64 * PAGE)
        os.pwrite(fd, b"y" * size, size)
        before = os.fstat(fd).st_blocks
        assert c.check(block, offsets).zero.sum() == 64
        assert os.fstat(fd).st_blocks == before
    os.close(fd)


def test_a_page_of_a_diff_that_becomes_a_hole_is_never_zero(monkeypatch: pytest.MonkeyPatch):
    """Punched after the walk and before the look: what is read there are not the page's bytes."""
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 256 * PAGE)
    os.pwrite(fd, b"x" * 64 * PAGE, 0)
    take = ScanWork.take

    def take_and_punch(work: ScanWork) -> tuple[int, int] | None:
        taken = take(work)
        _fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 16 * PAGE, 8 * PAGE)
        return taken

    monkeypatch.setattr(ScanWork, "take", take_and_punch)
    with Coordinator(1) as c:
        report = c.scan(c.attach(f"fd:{fd}", access="read"), kind="diff")
    counts = report.total
    assert (counts.zero, counts.normal, counts.undecided) == (0, 56, 8)
    assert counts.unchanged == 192
    assert "8 pages became holes" in report.notes[0]
    os.close(fd)
