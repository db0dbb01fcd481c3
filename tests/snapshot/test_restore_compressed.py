"""A compressed snapshot is restored to the same RAM, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SnapshotError, UsageError
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.values import Snapshot
from tests.support.file_systems import mounted
from tests.support.snapshots import PAGE, make_snapshot, some_ram

RAM = bytes(1 << 20) + some_ram(600) + bytes(1 << 20)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Snapshot]:
    path = tmp_path / "saved"
    return path, make_snapshot(path, {"pc.ram": RAM}, finish=compress_block)


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_the_same_ram_and_holes(saved: tuple[Path, Snapshot], tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind, "32m") as at:
        (block,) = pagecheck.restore(saved[0], str(at / "ram")).blocks
        assert (at / "ram").read_bytes() == RAM
        os.sync()
        allocated = (at / "ram").stat().st_blocks * 512
    normal = saved[1].blocks[0].normal
    assert (block.normal, block.written, block.cleared) == (normal, normal, 0)
    assert normal * PAGE <= allocated <= (normal + 16) * PAGE


def test_progress_and_rate(saved: tuple[Path, Snapshot], tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    pagecheck.restore(
        saved[0],
        str(tmp_path / "ram"),
        max_rate=1 << 40,
        progress=lambda done, total: shown.append((done, total)),
    )
    assert shown[-1][0] == shown[-1][1]


def test_onto_ram_that_is_there(saved: tuple[Path, Snapshot], tmp_path: Path) -> None:
    (tmp_path / "ram").write_bytes(b"\1" * len(RAM))
    with pytest.raises(UsageError, match="is restored to a new file only"):
        pagecheck.restore(saved[0], str(tmp_path / "ram"), onto=True)
    assert (tmp_path / "ram").read_bytes() == b"\1" * len(RAM)


def test_a_byte_that_is_wrong(saved: tuple[Path, Snapshot], tmp_path: Path) -> None:
    path = saved[0] / saved[1].blocks[0].file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"block pc\.ram is damaged"):
        pagecheck.restore(saved[0], str(tmp_path / "ram"))
    assert not (tmp_path / "ram").exists()
