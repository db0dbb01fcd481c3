"""Disks that were written after the snapshot was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import UsageError
from pagecheck.snapshot.disk_times import require_unwritten
from pagecheck.snapshot.values import Disk, DiskKept, Snapshot


def snapshot(path: Path, *, kept: DiskKept = "quit", **changed: Any) -> Snapshot:
    other = {"written_ns": path.stat().st_mtime_ns, **changed}
    overlay = str(path) + ".overlay" if kept == "overlay" else None
    disk = Disk("vda", str(path), "qcow2", True, kept, overlay, other)
    return Snapshot("tests", "2026-01-31T12:00:00Z", True, 4096, None, (), None, disks=(disk,))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"before")
    monkeypatch.chdir(tmp_path)
    return path


def write(path: Path) -> None:
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now, now + 1))


def lines(path: Path) -> list[list[str]]:
    return [
        ["qemu", "-hda", str(path)],
        ["qemu", "-drive", f"if=virtio,file={path},format=qcow2"],
        ["qemu", "-drive", "file=disk.qcow2"],
        ["qemu", "-blockdev", json.dumps({"driver": "file", "filename": str(path)})],
    ]


@pytest.mark.parametrize("kept", ["quit", "overlay"])
@pytest.mark.parametrize("number", range(4))
def test_one_that_was_written(disk: Path, number: int, kept: DiskKept) -> None:
    made = snapshot(disk, kept=kept)
    require_unwritten(made, lines(disk)[number])
    write(disk)
    with pytest.raises(UsageError, match=r"disk \S+/disk\.qcow2 was written after the snapshot"):
        require_unwritten(made, lines(disk)[number])


def test_what_the_vm_wrote_afterwards(disk: Path) -> None:
    words = ["qemu", "-drive", f"file={disk}.overlay,if=virtio"]
    with pytest.raises(UsageError, match=r"overlay is what the VM wrote after .*own above \S+disk"):
        require_unwritten(snapshot(disk, kept="overlay"), words)


def test_what_is_not_known_is_not_refused(disk: Path, tmp_path: Path) -> None:
    made = [
        snapshot(disk, kept="none"),
        snapshot(disk, written_ns=None),
        snapshot(disk, written_ns="7"),
        snapshot(disk),
    ]
    write(disk)
    for each in made[:3]:
        require_unwritten(each, lines(disk)[0])
    require_unwritten(made[3], ["qemu", "-hda", str(tmp_path / "copy.qcow2")])
    require_unwritten(made[3], ["qemu", "-hda", f"{disk}.mine"])
    disk.unlink()
    require_unwritten(made[3], lines(disk)[0])
