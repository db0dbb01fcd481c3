"""What goes wrong while pages are copied: workers that die, a full disk, a limit, a file that is
truncated. What is called normal is in the file all the same, and the reason is told."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pagecheck import Coordinator
from pagecheck.child.spawn import Process
from pagecheck.coordinator import scan
from pagecheck.coordinator.scan import ScanResult
from pagecheck.coordinator.select import Ranges
from pagecheck.coordinator.sink import Sink
from pagecheck.errors import UsageError
from tests.support.bitmaps import bits
from tests.support.known_ram import KnownRam, dense_ram
from tests.support.processes import kill
from tests.support.rams import PAGE, Ram, file_in, huge, memfd
from tests.support.ring import catch_in_progress
from tests.support.waiting import Background


@pytest.fixture
def sink(ram: KnownRam) -> Iterator[Ram]:
    with memfd() as made:
        os.ftruncate(made.fd, ram.size)
        yield made


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def assert_normal_is_there(result: ScanResult, ram: KnownRam, fd: int) -> int:
    """No page is called zero wrongly, nor normal without its bytes; how many are normal."""
    pages = ram.size // PAGE
    zero, normal = bits(result.report.zero, pages), bits(result.report.normal, pages)
    assert not (zero & ~ram.zero).any()
    assert not (normal & ram.zero).any()
    for page in normal.nonzero()[0].tolist():
        assert os.pread(fd, PAGE, page * PAGE) == os.pread(ram.fd, PAGE, page * PAGE), page
    return int(normal.sum())


def assert_whole(result: ScanResult, ram: KnownRam, sink: Ram) -> None:
    assert result.report.counts.undecided == 0
    assert result.write_error is None
    assert result.notes == ()
    assert content(sink.fd) == content(ram.fd)


@pytest.mark.parametrize("update", [False, True])
def test_a_worker_that_is_killed_in_between(large_ram: KnownRam, update: bool) -> None:
    with memfd() as sink, Coordinator(2, batch_pages=8192) as c:
        os.ftruncate(sink.fd, large_ram.size)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=update)
        scan = Background(lambda: c.scan_block(block))
        kill(catch_in_progress(c))
        result = scan.result()
        assert c.workers_replaced == 1
        assert_whole(result, large_ram, sink)
        assert result.written > 0


def test_a_page_that_was_written_and_is_zero_for_the_next_worker() -> None:
    """The guest ran meanwhile: what the killed worker wrote must not stay where zero is said."""
    ram = dense_ram(8192, normal_share=0.9)
    with memfd() as sink, Coordinator(1, batch_pages=8192) as c:
        os.ftruncate(sink.fd, ram.size)
        block = c.attach(ram.source, access="read", copy_to=sink.fd)
        scan = Background(lambda: c.scan_block(block))
        while True:
            pid = catch_in_progress(c)
            if os.fstat(sink.fd).st_blocks:
                break
            os.kill(pid, signal.SIGCONT)  # caught before its first write
        os.pwrite(ram.fd, bytes(ram.size), 0)
        kill(pid)
        result = scan.result()
        zero = bits(result.report.zero, ram.size // PAGE)
        assert (result.report.counts.undecided, c.workers_replaced) == (0, 1)
        there = np.frombuffer(content(sink.fd), np.uint8).reshape(-1, PAGE).any(1)
        assert not (zero & there).any()
    ram.close()


def test_an_idle_worker_that_is_killed(ram: KnownRam, sink: Ram) -> None:
    with Coordinator(1) as c:
        block = c.attach(ram.source, copy_to=sink.fd)
        kill(c.worker_pids[0])
        assert_whole(c.scan_block(block), ram, sink)


def test_a_worker_that_does_not_end_may_yet_write(
    ram: KnownRam, sink: Ram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this coordinator; one of another's says nothing, whether it comes or goes."""
    stuck: set[int] = set()
    wait_ended, poll = Process.wait_ended, Process.poll
    monkeypatch.setattr(
        Process, "wait_ended", lambda self, until: self.pid not in stuck and wait_ended(self, until)
    )
    monkeypatch.setattr(Process, "poll", lambda self: None if self.pid in stuck else poll(self))
    with Coordinator(1) as c, Coordinator(1) as other:
        for each in (c, other):
            (pid,) = each.worker_pids
            stuck.add(pid)
            assert not each.may_yet_write
            kill(pid)
            block = each.attach(ram.source, copy_to=sink.fd, copy_update=True)
            assert_whole(each.scan_block(block), ram, sink)
            assert each.may_yet_write
            assert not other.may_yet_write or each is other
            if each is other:
                stuck.remove(pid)
        assert c.may_yet_write
        assert not other.may_yet_write
        stuck.clear()
        assert not c.may_yet_write


def test_the_descriptor_can_be_closed(ram: KnownRam, sink: Ram) -> None:
    with Coordinator(1) as c:
        given = os.dup(sink.fd)
        block = c.attach(ram.source, copy_to=given)
        os.close(given)
        kill(c.worker_pids[0])
        assert_whole(c.scan_block(block), ram, sink)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize("update", [False, True])
def test_a_full_disk(ram: KnownRam, small_disk: Path, update: bool) -> None:
    with file_in(small_disk) as sink, Coordinator(2, batch_pages=64) as c:
        os.ftruncate(sink.fd, ram.size)
        block = c.attach(ram.source, copy_to=sink.fd, copy_update=update)
        result = c.scan_block(block)
        assert result.write_error == errno.ENOSPC
        assert 0 < assert_normal_is_there(result, ram, sink.fd) < (~ram.zero).sum()
        assert block.sink is not None
        where = block.sink.write_offset
        assert where is not None
        assert where % PAGE == 0
        assert f"{sink.source}: No space left on device at offset {where:#x}" in result.notes[0]
        if update:
            return  # what was written is there already
        Path(small_disk / "more").write_bytes(b"")
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        c.detach(block)
        block = c.attach(ram.source, copy_to=sink.fd, copy_update=True)
        assert_whole(c.scan_block(block), ram, sink)  # the next scan begins anew


def test_a_limit_of_the_size(ram: KnownRam, sink: Ram) -> None:
    """The signal that comes with it does not end the worker."""
    with Coordinator(1, batch_pages=64) as c:
        limit = resource.prlimit(c.worker_pids[0], resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        block = c.attach(ram.source, copy_to=sink.fd)
        result = c.scan_block(block)
        assert limit == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert (result.write_error, c.workers_replaced) == (errno.EFBIG, 0)
        assert "File too large" in result.notes[0]
        assert 0 < assert_normal_is_there(result, ram, sink.fd) < (~ram.zero).sum()


def test_a_file_that_is_truncated(
    ram: KnownRam, sink: Ram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody does so after the last write."""
    end = Sink.end

    def truncate_and_end(self: Sink) -> None:
        os.ftruncate(sink.fd, ram.size - 1)
        end(self)

    with Coordinator(2) as c:
        block = c.attach(ram.source, copy_to=sink.fd, copy_update=True)
        with monkeypatch.context() as patch:
            patch.setattr(Sink, "end", truncate_and_end)
            result = c.scan_block(block)
        assert result.report.counts.undecided == ram.size // PAGE
        assert not any(result.report.zero)
        assert not any(result.report.normal)
        assert "truncated while it was written: every page is undecided" in result.notes[0]
        os.ftruncate(sink.fd, ram.size)
        assert_whole(c.scan_block(block), ram, sink)  # which begins anew


def test_a_scan_that_ends_early_writes_no_more(large_ram: KnownRam) -> None:
    """When it returns, nobody has anything in hand."""
    with memfd() as sink, Coordinator(2, batch_pages=8192) as c:
        os.ftruncate(sink.fd, large_ram.size)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        for deadline in (0.001, 0.01, 0.03):
            result = c.scan_block(block, deadline=deadline)
            pool = c._pool
            assert pool is not None
            assert [channel.feed.occupied() for channel in pool.channels] == [0, 0]
            before = os.stat(f"/proc/self/fd/{sink.fd}").st_mtime_ns
            assert_normal_is_there(result, large_ram, sink.fd)
            assert os.stat(f"/proc/self/fd/{sink.fd}").st_mtime_ns == before
        assert_whole(c.scan_block(block), large_ram, sink)


def test_a_second_scan_has_to_compare(ram: KnownRam, sink: Ram) -> None:
    """A page that became zero would be called so with the first scan's bytes in its place."""
    with Coordinator(1) as c:
        block = c.attach(ram.source, copy_to=sink.fd)
        assert_whole(c.scan_block(block), ram, sink)
        for how in ({}, {"selection": Ranges([(0, 1)], ram.size // PAGE)}):
            with pytest.raises(UsageError, match="has what an earlier scan wrote; attach"):
                c.scan_block(block, **how)  # type: ignore[arg-type]
        c.detach(block)
        block = c.attach(ram.source, copy_to=sink.fd, copy_update=True)
        for _ in range(2):
            assert_whole(c.scan_block(block), ram, sink)


@pytest.mark.parametrize("update", [False, True])
def test_no_check_writes(ram: KnownRam, sink: Ram, update: bool) -> None:
    """Few or many, by an array or a list, before and after a scan."""
    with Coordinator(2) as c:
        block = c.attach(ram.source, copy_to=sink.fd, copy_update=update)
        every = np.arange(0, ram.size, PAGE, dtype=np.uint64)
        for offsets in (every[:1], every, [0]):
            with pytest.raises(UsageError, match="scan it, or attach it without copy_to"):
                c.check(block, offsets)
        assert content(sink.fd) == bytes(ram.size)
        assert_whole(c.scan_block(block), ram, sink)
        with pytest.raises(UsageError, match="are copied to"):
            c.check(block, every[:1])


def test_one_scan_at_a_time(large_ram: KnownRam) -> None:
    """Also after an interrupt that left a feeder behind with what it had submitted."""
    with memfd() as sink, Coordinator(2) as c:
        os.ftruncate(sink.fd, large_ram.size)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        refused = []

        def again(_done: int, _size: int) -> None:
            if not refused:
                with pytest.raises(UsageError, match="another scan writes there") as error:
                    c.scan_block(block)
                refused.append(error)

        assert_whole(c.scan_block(block, progress=again), large_ram, sink)
        assert refused
        assert_whole(c.scan_block(block), large_ram, sink)


@pytest.mark.parametrize("ends", [True, False])
def test_a_worker_that_is_killed_when_the_scan_has_ended(
    large_ram: KnownRam, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The block is scanned again once it is gone, and not before."""
    with memfd() as sink, Coordinator(1, batch_pages=8192) as c:
        os.ftruncate(sink.fd, large_ram.size)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        scan = Background(lambda: c.scan_block(block, deadline=1.0))
        catch_in_progress(c)
        with monkeypatch.context() as patch:
            if not ends:
                patch.setattr(Process, "wait_ended", lambda *_: False)
            assert scan.result().report.counts.undecided > 0
            if not ends:
                with pytest.raises(UsageError, match="ended early and may yet"):
                    c.scan_block(block)
        if not ends:
            c.detach(block)
            block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        assert_whole(c.scan_block(block), large_ram, sink)


def test_a_batch_that_nobody_can_wait_for(
    large_ram: KnownRam, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its channel is somebody else's: what it belongs to is not scanned again, another block is."""

    def interrupt(_done: int, _size: int) -> None:
        raise KeyboardInterrupt

    with memfd() as sink, Coordinator(2) as c:
        os.ftruncate(sink.fd, large_ram.size)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        with monkeypatch.context() as patch:
            patch.setattr(scan, "_may_write", lambda _channel: True)
            with pytest.raises(KeyboardInterrupt):
                c.scan_block(block, progress=interrupt)
        with pytest.raises(UsageError, match="ended early and may yet"):
            c.scan_block(block)
        c.detach(block)
        block = c.attach(large_ram.source, copy_to=sink.fd, copy_update=True)
        with pytest.raises(KeyboardInterrupt):
            c.scan_block(block, progress=interrupt)
        assert_whole(c.scan_block(block), large_ram, sink)


def test_what_cannot_be_a_sink(ram: KnownRam, sink: Ram, tmp_path: Path) -> None:
    read = os.open(f"/proc/self/fd/{sink.fd}", os.O_RDONLY)
    write = os.open(f"/proc/self/fd/{sink.fd}", os.O_WRONLY)
    append = os.open(tmp_path / "append", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    folder = os.open(tmp_path, os.O_RDONLY)
    pipes = os.pipe()
    with Coordinator(1) as c:
        for fd, offset, update, why in (
            (read, 0, False, "is not open for reading and writing"),
            (write, 0, False, "is not open for reading and writing"),
            (append, 0, False, "is open for appending"),
            (folder, 0, False, "only be copied to a regular file"),
            (pipes[1], 0, False, "only be copied to a regular file"),
            (1 << 20, 0, False, "is not an open descriptor"),
            (-1, 0, False, "is not an open descriptor"),
            (sink.fd, 100, False, "must be a multiple of 4096"),
            (sink.fd, -4096, False, "must be a multiple of 4096"),
            (sink.fd, (1 << 63) - 4096, False, "must end below"),
            (ram.fd, 0, False, "is the file that the pages are read from"),
        ):
            with pytest.raises(UsageError, match=why):
                c.attach(ram.source, copy_to=fd, copy_offset=offset, copy_update=update)
    for fd in (read, write, append, folder, *pipes):
        os.close(fd)
    with Coordinator(engine="none") as c, pytest.raises(UsageError, match="engine none"):
        c.attach(ram.source, copy_to=sink.fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can reserve huge pages")
def test_huge_pages_are_no_sink(ram: KnownRam) -> None:
    why = pytest.raises(UsageError, match="hugetlbfs takes no writes")
    with huge(1) as pages, Coordinator(1) as c, why:
        c.attach(ram.source, copy_to=pages.fd)
