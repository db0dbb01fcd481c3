"""Diffs and full snapshots on real file systems: the same answer, whatever is cached."""

import json
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command import assert_fails, pagecheck
from tests.support.file_systems import PAGE, forget, mounted, preallocate, write_page
from tests.support.rams import sparse_file

pytestmark = pytest.mark.usefixtures("clean")

# Page 2 written, page 4 written with zeros, of 64.
DIFF = ["0 2 unchanged", "2 1 normal", "3 1 unchanged", "4 1 zero", "5 59 unchanged"]
FULL = ["0 2 zero", "2 1 normal", "3 61 zero"]

BLOCKS_4K = pytest.mark.parametrize(
    ("kind", "size", "make"),
    [("ext4", "32M", ("-b", "4096")), ("xfs", "300M", ()), ("btrfs", "128M", ())],
    ids=["ext4", "xfs", "btrfs"],
)


def ranges(path: Path, *options: str) -> list[str]:
    done = pagecheck("scan", "--ranges", *options, path)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def diff(path: Path, *options: str) -> list[str]:
    return ranges(path, "--kind", "diff", *options)


def write_both(path: Path) -> None:
    write_page(path, 2, b"x" * PAGE)
    write_page(path, 4, b"")


def assert_steady(path: Path, expected: list[str]) -> None:
    """Fresh, forgotten, as a scan leaves it, and read by others: one answer."""
    blocks = None
    for cached in (False, True, True):
        if not cached:
            assert diff(path) == expected  # dirty
            forget(path)
        assert diff(path) == expected
        blocks = blocks or os.stat(path).st_blocks
        path.read_bytes()
    assert os.stat(path).st_blocks == blocks
    assert ranges(path) == FULL


@BLOCKS_4K
def test_diffs(tmp_path: Path, kind: str, size: str, make: tuple[str, ...]) -> None:
    with mounted(tmp_path, kind, size, *make) as at:
        write_both(sparse_file(at / "plain", 64, {}))
        assert_steady(at / "plain", DIFF)
        preallocate(at / "reserved", 64)
        write_both(at / "reserved")
        assert_steady(at / "reserved", DIFF)


def test_xfs_reserves_ahead_of_writers(tmp_path: Path) -> None:
    """By a file's hint for the size of extents, and of its own accord."""
    with mounted(tmp_path, "xfs", "300M") as at:
        hinted = sparse_file(at / "hinted", 0, {})
        hint = ["xfs_io", "-c", "extsize 64k", str(hinted)]
        if subprocess.run(hint, capture_output=True).returncode != 0:
            pytest.skip("needs xfs_io")
        os.truncate(hinted, 64 * PAGE)
        write_both(hinted)
        assert_steady(hinted, DIFF)
        for page in range(40):
            write_page(at / "growing", page, b"x")
        os.truncate(at / "growing", 64 * PAGE)
        write_page(at / "growing", 60, b"x")
        expected = ["0 40 normal", "40 20 unchanged", "60 1 normal", "61 3 unchanged"]
        assert diff(at / "growing") == expected
        (at / "growing").read_bytes()
        assert diff(at / "growing") == expected


def test_xfs_with_large_blocks(tmp_path: Path) -> None:
    with mounted(tmp_path, "xfs", "600M", "-b", "size=65536") as at:
        path = sparse_file(at / "diff", 64, {2: b"x", 40: b"y", 50: b""})
        assert_fails(pagecheck("scan", "--kind", "diff", path), 2, "blocks of 65536", "64K")
        by_block = ["0 1 normal", "1 1 unchanged", "2 1 normal", "3 1 zero"]
        assert diff(path, "--page-size", "64K") == by_block
        assert ranges(path) == ["0 2 zero", "2 1 normal", "3 37 zero", "40 1 normal", "41 23 zero"]


def test_ext4_bigalloc_is_exact(tmp_path: Path) -> None:
    """Clusters of 64 KiB are reserved, extents are of blocks."""
    with mounted(tmp_path, "ext4", "64M", "-b", "4096", "-O", "bigalloc", "-C", "65536") as at:
        write_both(sparse_file(at / "plain", 64, {}))
        assert_steady(at / "plain", DIFF)


def test_ext4_with_small_blocks(tmp_path: Path) -> None:
    """Extents may meet, or end, inside a page."""
    with mounted(tmp_path, "ext4", "32M", "-b", "1024") as at:
        write_both(sparse_file(at / "plain", 64, {}))
        assert_steady(at / "plain", DIFF)
        with (at / "plain").open("r+b") as file:
            file.seek(9 * PAGE)
            file.write(b"x" * 1024)
        done = pagecheck("scan", "--kind", "diff", at / "plain")
        assert_fails(done, 2, "part hole, part data", "no page size fits")


@pytest.mark.parametrize("option", ["nodelalloc", "dioread_lock", "data=journal"])
def test_ext4_that_writes_zeros_around(tmp_path: Path, option: str) -> None:
    """One page written into 8 reserved ones makes up to 8 pages data."""
    with mounted(tmp_path, "ext4", "32M", "-b", "4096", options=f",{option}") as at:
        write_both(sparse_file(at / "plain", 64, {}))
        assert diff(at / "plain") == DIFF
        preallocate(at / "reserved", 8)
        write_page(at / "reserved", 2, b"x")
        done = pagecheck("scan", "--kind", "diff", at / "reserved")
        assert_fails(done, 2, "fallocate", "mounted with")
        assert ranges(at / "reserved") == ["0 2 zero", "2 1 normal", "3 5 zero"]


def test_ext4_with_data_in_the_inode(tmp_path: Path) -> None:
    with mounted(tmp_path, "ext4", "32M", "-b", "4096", "-I", "256", "-O", "inline_data") as at:
        path = at / "small"
        path.write_bytes(b"")
        os.truncate(path, 16 * PAGE)
        with path.open("r+b") as file:
            file.write(b"hello")
        fd = os.open(path, os.O_RDONLY)
        try:
            os.lseek(fd, 0, os.SEEK_HOLE)
            pytest.skip("needs a kernel that leaves the bytes in the inode")
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
        for holes in ("trust", "read"):
            assert ranges(path, "--holes", holes) == ["0 1 normal", "1 15 zero"]
        assert_fails(pagecheck("scan", "--kind", "diff", path), 2, "inline, in its inode")


def test_btrfs_with_compression(tmp_path: Path) -> None:
    with mounted(tmp_path, "btrfs", "128M", options=",compress-force=zlib") as at:
        write_both(sparse_file(at / "plain", 64, {}))
        assert_steady(at / "plain", DIFF)


@pytest.mark.parametrize("huge", ["never", "advise", "always", "within_size"])
def test_tmpfs(tmp_path: Path, huge: str) -> None:
    """Where one page may become a huge one, no diff is answered; full snapshots are."""
    with mounted(tmp_path, "tmpfs", "64M", options=f",huge={huge}") as at:
        path = sparse_file(at / "diff", 64, {2: b"x", 4: b""})
        if huge == "never":
            assert diff(path) == DIFF
        else:
            done = pagecheck("scan", "--kind", "diff", path)
            assert_fails(done, 2, "huge page", f"huge={huge}", "huge=never")
        assert ranges(path) == FULL


def test_overlayfs(tmp_path: Path) -> None:
    """Its holes are another file system's."""
    with mounted(tmp_path, "tmpfs", "64M") as base:
        for name in ("lower", "upper", "work", "both"):
            (base / name).mkdir()
        sparse_file(base / "lower" / "plain", 64, {2: b"x", 4: b""})
        where = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
        mount = ["mount", "-t", "overlay", "-o", where, "overlay", str(base / "both")]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("needs overlayfs")
        try:
            path = base / "both" / "plain"
            assert_fails(pagecheck("scan", "--kind", "diff", path), 2, "does not report holes")
            done = pagecheck("scan", "--ranges", path)
            assert (done.returncode, done.stdout.splitlines()) == (0, FULL)
            assert "overlayfs" in done.stderr  # no word on who writes it
        finally:
            subprocess.run(["umount", str(base / "both")], check=True)


@BLOCKS_4K
def test_full_snapshots_of_what_is_not_written_back(
    tmp_path: Path, kind: str, size: str, make: tuple[str, ...]
) -> None:
    """A dirty page over a reserved extent is data, for a writer and through a mapping."""
    with mounted(tmp_path, kind, size, *make) as at:
        path = at / "reserved"
        preallocate(path, 64)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            file.seek(2 * PAGE)
            file.write(b"x" * PAGE)
            file.flush()
            mapped[40 * PAGE] = 1
            expected = ["0 2 zero", "2 1 normal", "3 37 zero", "40 1 normal", "41 23 zero"]
            assert ranges(path) == expected
        assert ranges(path) == expected


@BLOCKS_4K
def test_a_file_of_many_holes(tmp_path: Path, kind: str, size: str, make: tuple[str, ...]) -> None:
    """Each second page is a hole: they are answered without a batch for each, and stay holes."""
    with mounted(tmp_path, kind, size, *make) as at:
        path = at / "holes"
        with path.open("wb") as file:
            os.truncate(path, 4000 * PAGE)
            for page in range(1, 4000, 2):
                os.pwrite(file.fileno(), b"x" if page % 3 else b"\0" * PAGE, page * PAGE)
        forget(path)
        before = os.stat(path).st_blocks
        for options in ((), ("--holes", "read"), ("--channels", "2")):
            done = pagecheck("scan", "--json", *options, path)
            report = json.loads(done.stdout)
            total = report["total"]
            counts = total["zero"], total["hole"], total["normal"], total["undecided"]
            holes = 0 if "read" in options else 2000
            assert counts == (2667, holes, 1333, 0)
            assert report["statistics"]["answered"] <= 10
        expected = [page for page in range(4000) if page % 2 and page % 3]
        words = [line.split() for line in ranges(path)]
        normal = [int(first) for first, count, what in words if what == "normal"]
        assert normal == expected
        assert os.stat(path).st_blocks == before
