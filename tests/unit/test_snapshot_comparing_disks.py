"""Disks of a command that have not the content of the snapshot's moment are refused by name."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from pagecheck.errors import UsageError
from pagecheck.snapshot.comparing_disks import require_same_disks
from pagecheck.snapshot.values import Disk, Snapshot


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(b"base")
    (tmp_path / "overlay.qcow2").write_bytes(b"overlay")
    return path


def snapshot(base: Path, kept: str = "overlay", *, known: bool = True) -> Snapshot:
    written = os.stat(base).st_mtime_ns if known else None
    overlay = str(base.parent / "overlay.qcow2") if kept == "overlay" else None
    other = {"written_ns": written}
    disk = Disk("virtio0", str(base), "raw", True, kept, overlay, other)  # type: ignore[arg-type]
    return Snapshot("tests", "2026-01-31T12:00:00Z", True, 4096, None, (), None, (disk,))


WAYS = (
    "-drive file={},if=virtio",
    "-drive file.driver=file,file.filename={},if=virtio",
    "-hda {}",
    "{}",
    "-blockdev driver=file,node-name=f,filename={}",
    """-blockdev '{{"driver":"raw","node-name":"r","file":{{"driver":"file","filename":"{}"}}}}'""",
    "-blockdev driver=raw,node-name=f,file.driver=file,file.filename={}",
)


def given(way: str, path: Path) -> list[str]:
    return shlex.split(f"qemu-system-x86_64 {way.format(path)}")


@pytest.mark.parametrize("way", WAYS)
def test_what_the_vm_went_on_in_is_refused(base: Path, way: str) -> None:
    overlay = base.parent / "overlay.qcow2"
    with pytest.raises(UsageError, match=f"after the snapshot; .* is in {base}"):
        require_same_disks(snapshot(base), given(way, overlay))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kept", ["overlay", "quit"])
def test_a_disk_of_that_moment_is_taken_until_it_is_written_to(
    base: Path, way: str, kept: str
) -> None:
    saved = snapshot(base, kept)
    link = base.parent / "link"
    link.symlink_to(base)
    require_same_disks(saved, given(way, base))
    os.utime(base, ns=(0, 1))
    for path in (base, link):
        with pytest.raises(UsageError, match=r"virtio0: .* was written to after the snapshot"):
            require_same_disks(saved, given(way, path))


@pytest.mark.parametrize("kept", ["none", "quit"])
def test_what_is_not_known_is_not_refused(base: Path, kept: str) -> None:
    saved = snapshot(base, kept, known=kept == "none")
    os.utime(base, ns=(0, 1))
    require_same_disks(saved, given(WAYS[0], base))
    require_same_disks(saved, given(WAYS[0], base.parent / "another.img"))
