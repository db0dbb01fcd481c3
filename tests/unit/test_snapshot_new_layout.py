"""RAM that is written while it is verified is the same RAM, with the same holes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagecheck.errors import OutputError, SnapshotError
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.new_layout import laid_out, page_writer
from pagecheck.snapshot.ram_target import RamTarget
from pagecheck.snapshot.values import Snapshot
from pagecheck.snapshot.verify import verify_in
from tests.support.snapshots import PAGE, make_snapshot, some_ram

MIB = 1 << 20


def written(directory: Path, target: RamTarget, threads: int = 3) -> None:
    def begin(snapshot: Snapshot, bitmaps: list[bytes]) -> list[object]:
        return [page_writer(target, bitmaps[0], snapshot.page_bytes)]

    with Folder(directory) as folder:
        verify_in(folder, threads=threads, also=begin)  # type: ignore[arg-type]


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
    with RamTarget(str(tmp_path / "new"), block.size, onto=False) as target:
        written(tmp_path / "snap", target)
        assert os.pread(target.fd, block.size, 0) == content
        os.fsync(target.fd)
        done = laid_out(block, target)
        assert done.allocated <= block.normal * page_bytes + 8 * PAGE
        assert (done.zero, done.written, done.cleared) == (block.zero, block.normal, 0)


def test_damage_is_found_on_the_way(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snap", {"ram": some_ram(400)}, finish=compress_block)
    (block,) = snapshot.blocks
    with (tmp_path / "snap" / block.file).open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"damaged")
    with (
        RamTarget(str(tmp_path / "new"), block.size, onto=False) as target,
        pytest.raises(SnapshotError, match="pages 256 to 399 of 400"),
    ):
        written(tmp_path / "snap", target)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "snap", {"ram": some_ram(400)})
    with RamTarget(str(tmp_path / "new"), snapshot.blocks[0].size, onto=False) as target:
        with open("/dev/full", "r+b", buffering=0) as full:
            os.dup2(full.fileno(), target.fd)
        with pytest.raises(OutputError, match=r"new: cannot be written: .*space"):
            written(tmp_path / "snap", target)
