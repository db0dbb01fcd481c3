"""Checksums of RAM files: the same whatever the number of threads, and holes are not read."""

import os
import random
import signal
import threading
from pathlib import Path

import pytest
import xxhash

from pagecheck.native import _native
from pagecheck.shm.ram import DISK, TMPFS
from pagecheck.snapshot import checksums, ram_files
from pagecheck.snapshot.checksums import chunk_digests, zero_digests
from pagecheck.snapshot.syncing import Syncing

MIB = 1 << 20


def sparse(path: Path, size: int, **data: bytes) -> int:
    """A file of that size with data at offsets: `at_4096=b"x"`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.truncate(fd, size)
    for at, content in data.items():
        os.pwrite(fd, content, int(at.removeprefix("at_")))
    return fd


def expected(path: Path) -> bytes:
    content = path.read_bytes()
    chunks = [content[at : at + MIB] for at in range(0, len(content), MIB)]
    return b"".join(xxhash.xxh3_128_digest(each) for each in chunks)


@pytest.mark.parametrize("threads", [None, 1, 3, 64])
@pytest.mark.parametrize("size", [4096, MIB - 4096, MIB, 5 * MIB, 40 * MIB + 8192])
def test_as_one_chunk_after_the_other(tmp_path: Path, size: int, threads: int | None) -> None:
    data = {f"at_{at}": os.urandom(3000) for at in range(0, size, 3 * MIB)}
    fd = sparse(tmp_path / "ram", size, **data, **{f"at_{size - 1}": b"x"})
    assert chunk_digests(fd, size, threads=threads) == expected(tmp_path / "ram")
    os.close(fd)


def test_a_hole_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = sparse(tmp_path / "ram", 64 * MIB, **{f"at_{7 * MIB + 5}": b"x"})
    read, seen = os.preadv, []

    def preadv(given: int, buffers: list[bytearray], at: int) -> int:
        seen.append(at)
        return read(given, buffers, at)

    monkeypatch.setattr(ram_files.os, "preadv", preadv)
    digests = chunk_digests(fd, 64 * MIB)
    assert seen == [7 * MIB]
    assert digests[: 7 * 16] == zero_digests(7 * MIB)
    os.close(fd)


def test_what_is_looked_at_is_the_content(tmp_path: Path) -> None:
    size = 9 * MIB + 4096
    fd = sparse(tmp_path / "ram", size, at_0=os.urandom(size))
    seen: dict[int, bytes] = {}
    chunk_digests(fd, size, look=lambda at, chunk: seen.update({at: bytes(chunk)}))
    content = (tmp_path / "ram").read_bytes()
    assert b"".join(seen[at] for at in sorted(seen)) == content
    os.close(fd)


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = sparse(tmp_path / "ram", 2 * MIB, at_0=os.urandom(2 * MIB))
    read = os.preadv

    def preadv(given: int, buffers: list[memoryview], at: int) -> int:
        return read(given, [memoryview(buffers[0])[:300_000]], at)

    monkeypatch.setattr(ram_files.os, "preadv", preadv)
    assert chunk_digests(fd, 2 * MIB) == expected(tmp_path / "ram")
    os.close(fd)


def test_a_file_that_becomes_shorter(tmp_path: Path) -> None:
    fd = sparse(tmp_path / "ram", 8 * MIB, at_0=os.urandom(8 * MIB))

    def cut(at: int, _chunk: bytearray) -> None:
        os.truncate(tmp_path / "ram", 3 * MIB + 100)

    with pytest.raises(OSError, match="became shorter while it was read"):
        chunk_digests(fd, 8 * MIB, threads=1, look=cut)
    os.close(fd)


@pytest.mark.parametrize("where", ["progress", "look"])
def test_an_exception_ends_all_threads(tmp_path: Path, where: str) -> None:
    fd = sparse(tmp_path / "ram", 32 * MIB, at_0=os.urandom(32 * MIB))
    before = threading.active_count()
    calls = []

    def end(*_arguments: object) -> None:
        calls.append(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chunk_digests(fd, 32 * MIB, threads=3, **{where: end})  # type: ignore[arg-type]
    assert threading.active_count() == before
    assert len(calls) <= 3
    os.close(fd)


def test_progress_ends_with_the_total(tmp_path: Path) -> None:
    fd = sparse(tmp_path / "ram", 16 * MIB, **{f"at_{9 * MIB}": os.urandom(2 * MIB)})
    seen: list[tuple[int, int]] = []
    chunk_digests(fd, 16 * MIB, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (16 * MIB, 16 * MIB)
    os.close(fd)


def test_an_interrupt_while_a_thread_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no shortage of threads, though a lock in there raises a RuntimeError for it."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("release unlocked lock") from None
        start(thread)

    fd = sparse(tmp_path / "ram", 16 * MIB, at_0=b"x")
    monkeypatch.setattr(checksums.threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chunk_digests(fd, 16 * MIB, threads=2)
    with pytest.raises(KeyboardInterrupt):
        Syncing([fd])
    os.close(fd)


def test_no_thread_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pagecheck.errors import ResourceError

    def start(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    fd = sparse(tmp_path / "ram", 16 * MIB, at_0=b"x")
    monkeypatch.setattr(checksums.threading.Thread, "start", start)
    with pytest.raises(ResourceError, match="cannot start a thread for checksums"):
        chunk_digests(fd, 16 * MIB, threads=2)
    os.close(fd)


@pytest.mark.parametrize(
    ("magic", "counts"),
    [(TMPFS, True), *((each, True) for each in sorted(DISK)), (0x65735546, False)],
)
def test_holes_count_only_where_they_are_known_to_be_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, counts: bool
) -> None:
    """Elsewhere, as in a file of FUSE, all is read."""
    monkeypatch.setattr(_native, "file_system_magic", lambda _fd: magic)
    fd = sparse(tmp_path / "ram", MIB, at_65536=bytes(4096))
    whole = [(0, MIB)]
    assert list(ram_files.data_of(fd, 0, MIB)) == ([(65536, 69632)] if counts else whole)
    assert list(ram_files.data_of(fd, MIB, MIB)) == []
    os.close(fd)


@pytest.mark.parametrize("page", [4096, 64 << 10, MIB, 2 * MIB])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_not_marked_as_zero_is_read_in_a_hole_too(
    tmp_path: Path, page: int, seed: int
) -> None:
    """A page that was written and is lost must not count as a hole."""
    chance = random.Random(seed)
    pages = 20 * MIB // page - chance.randrange(2)
    size = pages * page
    normal = sorted(chance.sample(range(pages), chance.randrange(1, 4)))
    normal += [pages - 1] if seed % 2 else [0]
    marked = sum(1 << each for each in range(pages)) & ~sum(1 << each for each in {*normal})
    words = memoryview(marked.to_bytes(-(-pages // 64) * 8, "little"))
    found = chance.randrange(size)
    fd = sparse(tmp_path / "ram", size, **{f"at_{found}": b"x"})
    chunks = {
        at // MIB * MIB for each in normal for at in range(each * page, (each + 1) * page, 4096)
    }
    data = {at // MIB * MIB for at in (found // 4096 * 4096,)}
    ram = ram_files.RawRam(fd, size, ram_files.Zero(words, page))
    assert list(ram.with_data()) == sorted(chunks | data)
    everything = memoryview(sum(1 << each for each in range(pages)).to_bytes(len(words), "little"))
    none = ram_files.RawRam(fd, size, ram_files.Zero(everything, page))
    assert list(none.with_data()) == sorted(data)
    os.close(fd)
