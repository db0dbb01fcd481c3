"""Which diffs are answered, and from what."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pagecheck.errors import SourceError, UsageError
from pagecheck.shm import diffs, extents, mounts
from pagecheck.shm.extents import DELALLOC, INLINE, UNKNOWN, UNWRITTEN, Extent
from pagecheck.shm.ram import RamSource, open_source

PAGE = 4096


@pytest.fixture
def source() -> Iterator[RamSource]:
    """16 pages of a memfd, of which 2 and 3 were written."""
    fd = os.memfd_create("diff")
    os.ftruncate(fd, 16 * PAGE)
    os.pwrite(fd, bytes(2 * PAGE), 2 * PAGE)
    with open_source(f"fd:{fd}") as opened:
        os.close(fd)
        yield opened


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Extent]:
    """What FIEMAP tells of every file."""
    found: list[Extent] = []
    monkeypatch.setattr(diffs.extents, "by_map", lambda _fd, _start, _end: iter(found))
    return found


def mounted(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    mount = mounts.Mount(1, 0, (0, 0), "/", "ext4", ("rw", *options))
    monkeypatch.setattr(diffs.mounts, "of_device", lambda _device: mount)


def test_a_diff_on_tmpfs(source: RamSource) -> None:
    diffs.require_exact(source, PAGE)
    assert list(diffs.data(source, 0, 16 * PAGE)) == [(2 * PAGE, 4 * PAGE)]
    assert list(diffs.unallocated_data(source, 0, 16 * PAGE)) == []
    assert not diffs.is_inline(source)


@pytest.mark.parametrize("magic", [0x6969, 0x65735546, 0x794C7630, 0x73717368, 0x958458F6, 1])
def test_unknown_file_systems(source: RamSource, magic: int) -> None:
    """NFS, FUSE, overlayfs, squashfs, hugetlbfs and others."""
    source.magic = magic
    with pytest.raises(UsageError, match="does not report holes"):
        diffs.require_exact(source, PAGE)


def test_huge_pages(source: RamSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffs.huge_folios, "why_possible", lambda _fd: "mounted with huge=always")
    with pytest.raises(SourceError, match=r"huge=always; make the diff on .*huge=never"):
        diffs.require_exact(source, PAGE)


@pytest.mark.parametrize("swap", [False, True])
def test_reserved_shared_memory(
    source: RamSource, monkeypatch: pytest.MonkeyPatch, swap: bool
) -> None:
    monkeypatch.setattr(diffs, "_swap_is_used", lambda: swap)
    diffs.require_exact(source, PAGE)
    fd = os.open(f"/proc/self/fd/{source.fd}", os.O_RDWR)
    os.posix_fallocate(fd, 0, 16 * PAGE)
    os.close(fd)
    if swap:
        with pytest.raises(SourceError, match="fallocate"):
            diffs.require_exact(source, PAGE)
    else:
        diffs.require_exact(source, PAGE)
        assert list(diffs.data(source, 0, 16 * PAGE)) == [(2 * PAGE, 4 * PAGE)]


def test_swap(tmp_path: Path) -> None:
    swaps = tmp_path / "swaps"
    swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n")
    assert not diffs._swap_is_used(str(swaps))
    swaps.write_text("Filename\tType\tSize\tUsed\tPriority\n/dev/vda2 partition 1 0 -2\n")
    assert diffs._swap_is_used(str(swaps))
    assert not diffs._swap_is_used(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("block", "page", "fits"),
    [(65536, 4096, "--page-size 64K"), (8192, 4096, "--page-size 8K"), (12288, 65536, "no page")],
)
def test_blocks_larger_than_the_page(
    source: RamSource, monkeypatch: pytest.MonkeyPatch, block: int, page: int, fits: str
) -> None:
    monkeypatch.setattr(diffs.os, "fstatvfs", lambda _fd: SimpleNamespace(f_bsize=block))
    with pytest.raises(UsageError, match=f"blocks of {block} bytes.*{fits}"):
        diffs.require_exact(source, page)


@pytest.mark.parametrize("block", [1024, 4096, 65536])
def test_blocks_that_fit(source: RamSource, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(diffs.os, "fstatvfs", lambda _fd: SimpleNamespace(f_bsize=block))
    diffs.require_exact(source, 65536)


@pytest.mark.parametrize(
    "option", ["nodioread_nolock", "nodelalloc", "data=journal"], ids=lambda each: each[:8]
)
def test_reserved_space_on_an_ext4_that_writes_zeros(
    source: RamSource, told: list[Extent], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    source.magic = diffs.EXT4
    mounted(monkeypatch, option)
    told += [Extent(0, PAGE, 0)]
    diffs.require_exact(source, PAGE)
    told += [Extent(PAGE, 16 * PAGE, UNWRITTEN)]
    with pytest.raises(SourceError, match=f"mounted with {option}, so that ext4 writes zeros"):
        diffs.require_exact(source, PAGE)


def test_reserved_space_on_ext4(
    source: RamSource, told: list[Extent], monkeypatch: pytest.MonkeyPatch
) -> None:
    source.magic = diffs.EXT4
    mounted(monkeypatch, "data=ordered", "discard")
    told += [Extent(0, PAGE, UNWRITTEN), Extent(PAGE, 2 * PAGE, 0), Extent(2 * PAGE, 9, UNWRITTEN)]
    diffs.require_exact(source, PAGE)
    assert list(diffs.data(source, 0, 16 * PAGE)) == [(PAGE, 2 * PAGE)]


def test_ext4_of_another_namespace(
    source: RamSource, told: list[Extent], monkeypatch: pytest.MonkeyPatch
) -> None:
    source.magic = diffs.EXT4
    monkeypatch.setattr(diffs.mounts, "of_device", lambda _device: None)
    diffs.require_exact(source, PAGE)
    told += [Extent(0, PAGE, UNWRITTEN)]
    with pytest.raises(SourceError, match="options are not known"):
        diffs.require_exact(source, PAGE)


@pytest.mark.parametrize(
    ("release", "option", "safe"),
    [
        ("5.5.0", "rw", False),
        ("5.5.0-rc1+", "dioread_nolock", True),
        ("5.6.1", "rw", True),
        ("6.1-rc2", "rw", True),
        ("10.0", "rw", True),
    ],
)
def test_what_older_kernels_do_by_default(release: str, option: str, safe: bool) -> None:
    mount = mounts.Mount(1, 0, (0, 0), "/", "ext4", (option,))
    assert (diffs._why_zeroing(mount, release) is None) is safe


def test_data_without_a_place(source: RamSource, told: list[Extent]) -> None:
    source.magic = diffs.XFS
    told += [Extent(0, 1, 0), Extent(4, 8, DELALLOC | UNKNOWN), Extent(8, 9, UNWRITTEN)]
    assert list(diffs.data(source, 0, 16)) == [(0, 1), (4, 8)]
    assert list(diffs.unallocated_data(source, 0, 16)) == [(4, 8)]


def test_inline_data(source: RamSource, told: list[Extent]) -> None:
    source.magic = diffs.EXT4
    told += [Extent(0, 5, INLINE)]
    assert diffs.is_inline(source)


@pytest.mark.parametrize("magic", [None, diffs.EXT4])
def test_a_failing_lookup_is_no_answer(
    source: RamSource, monkeypatch: pytest.MonkeyPatch, magic: int | None
) -> None:
    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "I/O error")

    source.magic = magic or source.magic
    monkeypatch.setattr(extents.os, "lseek", failing)
    monkeypatch.setattr(extents.fcntl, "ioctl", failing)
    with pytest.raises(SourceError, match="cannot look for holes: I/O error"):
        list(diffs.data(source, 0, 16 * PAGE))
