"""A guest that writes a disk is saved with it, and goes on: its files and its file system, too."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from tests.support import command
from tests.support.guests import booted
from tests.vm.saved_guests import SavedGuest, goes_on, restored

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]
SMALL: dict[str, Any] = {"random_mb": 2, "zeros_mb": 1, "check_every_s": 0}


def save(folder: Path, disk: Path, *, goes_on: bool, **how: Any) -> SavedGuest:
    """Boots a guest that writes a disk all the time, and saves it while it does."""
    qmp = ("-qmp", f"unix:{folder}/qmp,server=on,wait=off")
    with booted(backend="private", disk=disk, extra=qmp, **SMALL) as guest:
        assert guest.wait_check().endswith("OK")
        last = guest.count()
        pagecheck.save(f"qmp:{folder}/qmp", folder / "saved", **how)
        words = [word for word in guest.command if word not in qmp]
        if goes_on:
            assert guest.wait_check().endswith("OK"), "the first one goes on, above its overlay"
    return SavedGuest(folder / "saved", words, last, ["pc.ram"])


def test_overlay(shm_folder: Path) -> None:
    disk, mine = shm_folder / "disk.raw", shm_folder / "mine.qcow2"
    saved = save(shm_folder, disk, goes_on=True, disks="overlay")
    (kept,) = pagecheck.info(saved.directory).disks
    assert kept.path == str(disk)
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "raw", str(mine)]
    subprocess.run(create, check=True)
    words = [word.replace(f"{disk},format=raw", f"{mine},format=qcow2") for word in saved.command]
    given = ("--ram", f"pc.ram={shm_folder / 'ram'}")
    with restored(saved._replace(command=words), shm_folder, shm_folder / "log", *given) as front:
        assert goes_on(front.pid, shm_folder / "log", saved.last)
    assert disk.stat().st_mtime_ns == kept.other["written_ns"]


def test_quit(shm_folder: Path) -> None:
    saved = save(shm_folder, shm_folder / "disk.qcow2", goes_on=False, then="quit")
    given = ("--ram", f"pc.ram={shm_folder / 'ram'}")
    with restored(saved, shm_folder, shm_folder / "log", *given) as front:
        assert goes_on(front.pid, shm_folder / "log", saved.last)
    given = ("--ram", str(shm_folder / "again"))
    again = ("restore", saved.directory, *given, "--exec", "--", *saved.command)
    ran = command.pagecheck(*again)
    assert "disk.qcow2 was written to after the snapshot" in ran.stderr
    assert (ran.returncode, (shm_folder / "again").exists()) == (2, False)
