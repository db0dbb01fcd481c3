"""RAM that turns out at the end of a scan not to have arrived: nothing of it is believed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pagecheck
from pagecheck.coordinator import Coordinator
from pagecheck.errors import SourceError
from pagecheck.service.limits import Limits
from pagecheck.service.resources import HeldBlock
from pagecheck.service.results import Check
from pagecheck.service.service import Service
from pagecheck.shm.ram import adopt
from pagecheck.vmm.vm import Vm

pytestmark = pytest.mark.usefixtures("clean")

PAGES = 4096
WHY = "qmp:x: loads a snapshot"


@pytest.fixture
def guest() -> Iterator[int]:
    """The process id of something with guest RAM."""
    code = (
        "import mmap, os, sys; fd = os.memfd_create('ch_ram'); os.truncate(fd, 4096 * 4096)\n"
        "ram = mmap.mmap(fd, 0); ram[0] = 1; print('ready', flush=True); sys.stdin.read()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", "-c", code], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def test_a_scan_is_undecided(guest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pagecheck.scan(f"pid:{guest}").total.zero == PAGES - 1
    monkeypatch.setattr(Vm, "doubt", lambda _self: WHY)
    report = pagecheck.scan(f"pid:{guest}")
    assert report.total.undecided == PAGES
    assert not any(report.blocks[0].zero)
    assert not any(report.blocks[0].normal)
    assert f"{WHY}: every page is undecided" in report.notes


class Doubtful:
    """In place of a `Vm`: what `doubt` says, one answer after the other."""

    def __init__(self, *answers: str | None) -> None:
        self._answers = iter(answers)

    def doubt(self) -> str | None:
        return next(self._answers)

    def changes(self) -> list[str]:
        return []


def test_a_check_of_the_service_is_undecided() -> None:
    fd = os.memfd_create("ram")
    os.truncate(fd, PAGES * 4096)
    os.pwrite(fd, b"x", 0)
    with Coordinator(1, "cpu") as coordinator:
        assert coordinator.settings is not None
        service = Service(coordinator, coordinator.settings, Limits())
        block = coordinator.attach(adopt(fd, "ram", "ram"))

        def checked(*answers: str | None) -> tuple[dict[str, Any], np.ndarray]:
            vm: Any = Doubtful(*answers)
            held = [HeldBlock(0, block, (), vm)]
            check = Check(
                held,
                ranges=None,
                bitmap=None,
                kind="full",
                max_rate=None,
                deadline=None,
                pause=False,
                max_pause=None,
                leave_stopped=False,
                progress=lambda _done, _of: None,
            )
            members, (bitmaps,) = check.run(service)
            words = np.frombuffer(os.pread(bitmaps, 1 << 20, 0), np.uint8)
            os.close(bitmaps)
            return members, words

        members, words = checked(None, None)
        assert members["blocks"][0]["counts"]["zero"] == PAGES - 1
        assert words.any()
        members, words = checked(None, WHY)
        assert members["blocks"][0]["counts"]["undecided"] == PAGES
        assert members["notes"] == [f"{WHY}: every page is undecided"]
        assert not words.any()
        with pytest.raises(SourceError, match=WHY):
            checked(WHY)
        service.close()
    os.close(fd)
