"""RAM that is written out is the same RAM, with the same holes."""

import os
from pathlib import Path

import pytest

from pagecheck.errors import SnapshotError
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.expand import write_pages
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.ram_files import open_ram
from tests.support.snapshots import PAGE, make_snapshot, some_ram

MIB = 1 << 20


@pytest.mark.parametrize("page_bytes", [PAGE, 2 * MIB])
@pytest.mark.parametrize("finish", [None, compress_block])
def test_the_same_ram_and_holes(tmp_path: Path, finish: object, page_bytes: int) -> None:
    content = bytes(4 * MIB) + some_ram(512 * 2) + bytes(2 * MIB)
    snapshot = make_snapshot(
        tmp_path / "snap",
        {"ram": content},
        page_bytes=page_bytes,
        finish=finish,  # type: ignore[arg-type]
    )
    (block,) = snapshot.blocks
    zero = (tmp_path / "snap" / "ram.zero").read_bytes()
    with Folder(tmp_path / "snap") as folder, (tmp_path / "new").open("w+b") as new:
        fd, ram = open_ram(folder, block, page_bytes)
        os.truncate(new.fileno(), 4096 + block.size)
        digests = write_pages(ram, zero, page_bytes, new.fileno(), offset=4096, threads=3)
        os.close(fd)
        assert digests == (tmp_path / "snap" / "ram.chunks").read_bytes()
        assert os.pread(new.fileno(), block.size, 4096) == content
        os.fsync(new.fileno())
        assert os.fstat(new.fileno()).st_blocks * 512 <= block.normal * page_bytes + 8 * PAGE


def test_damage_is_found_on_the_way(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snap", {"ram": some_ram(400)}, finish=compress_block)
    (block,) = snapshot.blocks
    with (tmp_path / "snap" / block.file).open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"damaged")
    with Folder(tmp_path / "snap") as folder, (tmp_path / "new").open("w+b") as new:
        fd, ram = open_ram(folder, block, PAGE)
        with pytest.raises(SnapshotError, match="pages 256 to 399 of 400"):
            write_pages(ram, bytes(56), PAGE, new.fileno())
        os.close(fd)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snap", {"ram": some_ram(400)})
    with Folder(tmp_path / "snap") as folder, open("/dev/full", "r+b", buffering=0) as full:
        fd, ram = open_ram(folder, snapshot.blocks[0], PAGE)
        with pytest.raises(OSError, match="No space left"):
            write_pages(ram, bytes(56), PAGE, full.fileno())
        os.close(fd)
