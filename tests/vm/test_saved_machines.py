"""Guests of many kinds are saved and go on elsewhere, each with its disk where it has one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from tests.support.guests import booted
from tests.vm.saved_guests import SavedGuest, goes_on, restored, save

pytestmark = pytest.mark.timeout(180)

GIB = 1 << 30


@pytest.fixture
def folder() -> Iterator[Path]:
    """On tmpfs: RAM files are large, and mostly holes."""
    path = Path(f"/dev/shm/pctest-saved-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    "asked",
    [
        {"size_bytes": 5 * GIB, "qemu": "10"},
        {"machine": "pc", "size_bytes": 5 * GIB, "backend": "memfd"},
    ],
    ids=["5 GiB private, QEMU 10", "5 GiB in a memfd"],
)
def test_it_goes_on(asked: dict[str, Any], folder: Path) -> None:
    saved = save(folder / "saved", **asked)
    (block,) = saved.blocks
    ram = folder / "ram"
    with restored(saved, ram, folder / "log", "--ram", f"{block}={ram}") as front:
        assert goes_on(front.pid, folder / "log", saved.last)
        assert ram.stat().st_blocks * 512 < GIB // 2
    assert pagecheck.verify(saved.directory)


@pytest.mark.parametrize(
    ("disk", "how"),
    [("disk.raw", {"disks": "overlay"}), ("disk.qcow2", {"then": "quit"})],
    ids=["overlay", "quit"],
)
def test_its_disk_is_of_the_same_moment(disk: str, how: dict[str, str], folder: Path) -> None:
    """It writes all the time; then it checks its file system and all that it had written."""
    qmp = ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    with booted(
        backend="private",
        random_mb=2,
        zeros_mb=1,
        check_every_s=0,
        disk=folder / disk,
        extra=qmp,
    ) as guest:
        guest.wait_check()
        last = guest.count()
        report = pagecheck.save(f"qmp:{folder}/qmp", folder / "saved", **how)  # type: ignore[arg-type]
        if "disks" in how:
            assert guest.wait_check().endswith(" OK"), "the first one goes on, on its overlay"
        command = [word for word in guest.command if word not in qmp]
    saved = SavedGuest(folder / "saved", command, last, [each.block.name for each in report.blocks])
    ram = folder / "ram"
    with restored(saved, ram, folder / "log", "--ram", str(ram)) as front:
        assert goes_on(front.pid, folder / "log", saved.last)
