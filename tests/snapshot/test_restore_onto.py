"""RAM that exists is written over while nobody else can open it, and what is half done is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import OutputError, SnapshotError
from pagecheck.snapshot import ram_layout
from pagecheck.snapshot.huge_layout import lay_out_huge
from pagecheck.snapshot.ram_target import RamTarget
from tests.support.clock import MovedClock
from tests.support.snapshots import make_snapshot, some_ram

MIB = 1 << 20
RAM = some_ram(300)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_snapshot(tmp_path / "saved", {"pc.ram": RAM})
    return tmp_path / "saved"


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    path = Path(f"/dev/shm/pctest-onto-{os.getpid()}")
    path.write_bytes(b"y" * len(RAM))
    yield path
    path.unlink()


def test_nobody_opens_it_before_the_end(
    saved: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = ram_layout.ram_digests
    opened = []

    def open_first(*given: Any, **options: Any) -> bytes:
        with pytest.raises(BlockingIOError):
            opened.append(os.open(old, os.O_RDONLY | os.O_NONBLOCK))
        return look(*given, **options)

    monkeypatch.setattr(ram_layout, "ram_digests", open_first)
    with pytest.raises(OutputError, match="another process opened it, or waits to"):
        pagecheck.restore(saved, str(old), onto=True, channels=1)
    assert opened == []
    assert old.read_bytes() == RAM, "it was written to the end, and can be opened"


@pytest.mark.parametrize("error", [OutputError("no space"), KeyboardInterrupt("interrupted")])
def test_what_is_half_old_is_told(
    saved: Path, old: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_given: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(ram_layout, "ram_digests", fail)
    with pytest.raises(type(error), match="may hold part of the snapshot and part of what was"):
        pagecheck.restore(saved, str(old), onto=True, channels=1)


def test_what_fails_before_it_is_written_is_not_called_half(saved: Path, old: Path) -> None:
    before = old.read_bytes()
    file = saved / "pc.ram.ram"
    file.write_bytes(bytes(len(RAM)))
    with pytest.raises(SnapshotError) as told:
        pagecheck.restore(saved, str(old), onto=True, channels=1)
    assert "part of the snapshot" not in str(told.value)
    assert old.read_bytes() == before


class Huge(RamTarget):
    """A file that says it has huge pages; a mapping writes to it as to those."""

    @property
    def is_hugetlbfs(self) -> bool:
        return True

    @property
    def huge_page(self) -> int:
        return 2 * MIB


def test_huge_pages_keep_the_rate_and_show_how_far_it_is(
    tmp_path: Path, moved_clock: MovedClock
) -> None:
    content = bytes(2 * MIB) + b"x" * (4 * MIB)
    snapshot = make_snapshot(tmp_path / "saved", {"ram": content}, page_bytes=2 * MIB)
    (block,) = snapshot.blocks
    shown: list[tuple[int, int]] = []
    began = moved_clock.now_s()
    fd = os.open(tmp_path / "saved" / "ram.ram", os.O_RDONLY)
    with Huge(str(tmp_path / "new"), block.size, onto=False) as target:
        done = lay_out_huge(
            block,
            fd,
            target,
            page_size=2 * MIB,
            max_rate=MIB,
            progress=lambda *now: shown.append(now),
        )
        assert os.pread(target.fd, block.size, 0) == content
    os.close(fd)
    assert (done.written, done.cleared) == (2, 0)
    assert shown[-1] == (block.size, block.size)
    assert {now for now, _ in shown} == {2 * MIB, 4 * MIB, 6 * MIB}
    assert 4.0 <= moved_clock.now_s() - began <= 6.0


def test_ram_that_is_no_whole_number_of_huge_pages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="huge pages of 2097152 bytes, of which 3145728"):
        Huge(str(tmp_path / "new"), 3 * MIB, onto=False)
    assert os.listdir(tmp_path) == []
