"""Guests of many kinds are saved and go on elsewhere, their disks aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pagecheck
from tests.vm.saved_guests import goes_on, restored, save

pytestmark = pytest.mark.timeout(180)

GIB = 1 << 30


@pytest.mark.long
@pytest.mark.parametrize(
    "asked",
    [
        {"size_bytes": 5 * GIB, "qemu": "10", "extra": ("-vga", "std")},
        {"machine": "virt", "qemu": "10"},
        {"machine": "pc", "size_bytes": 5 * GIB, "backend": "memfd"},
    ],
    ids=["5 GiB private, QEMU 10", "virt, QEMU 10", "5 GiB in a memfd"],
)
def test_it_goes_on(asked: dict[str, Any], shm_folder: Path) -> None:
    saved = save(shm_folder / "saved", **asked)
    (block,) = saved.blocks
    ram = shm_folder / "ram"
    with restored(saved, ram, shm_folder / "log", "--ram", f"{block}={ram}") as front:
        assert goes_on(front.pid, shm_folder / "log", saved.last)
        assert ram.stat().st_blocks * 512 < GIB // 2
    assert pagecheck.verify(saved.directory)
