"""Punching the RAM of other VMMs, by stand-ins: what pauses its devices, and what does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import SourceError, UsageError
from pagecheck.snapshot import punch_vm
from pagecheck.snapshot.in_use import mappers_of
from tests.support.api_vmm import api_vmm

pytestmark = pytest.mark.usefixtures("clean")

PAGE, MIB = 4096, 1 << 20


def test_zero_pages_of_cloud_hypervisor(tmp_path: Path) -> None:
    with api_vmm("ch", tmp_path / "api", mib=32, shared=True) as vmm:
        for page in range(200, 400, 2):
            vmm.write(page)  # which are normal then, as all odd ones are
        report = pagecheck.punch(vmm.source, channels=1)
        assert (report.proof, report.why_incomplete) == ("pause", None)
        assert report.zero_bytes == report.freed_bytes
        normal = pagecheck.scan(vmm.source, channels=1).total.normal
        assert normal >= 32 * MIB // PAGE // 2 + 100
        assert vmm.runs()


def test_workers_may_not_write(tmp_path: Path) -> None:
    """Else a punch would take those of another one for writers."""
    with api_vmm("ch", tmp_path / "api", mib=32, shared=True) as vmm:
        folder = Path(f"/proc/{vmm.pid}/fd")
        ram = next(each for each in folder.iterdir() if "ch_ram" in os.readlink(each))
        seen = []

        def watch(_done: int, _total: int) -> None:
            with open(ram, "rb") as file:
                seen.append(mappers_of(file.fileno(), vmm.pid))

        pagecheck.punch(vmm.source, channels=1, max_rate=32 * MIB, progress=watch)
        assert set(seen) == {""}


def test_a_thread_that_ran_in_the_pause_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_vmm("ch", tmp_path / "api", mib=64, shared=True) as vmm:
        real = punch_vm.requests

        def requests(*given: Any) -> Any:
            for number, each in enumerate(real(*given)):
                if number == 1:
                    vmm.write(2)
                yield each

        monkeypatch.setattr(punch_vm, "requests", requests)
        monkeypatch.setattr(punch_vm, "REQUEST_BYTES", 4 * MIB)
        report = pagecheck.punch(vmm.source, channels=1)
        assert report.why_incomplete is not None
        assert vmm.runs()


def test_firecracker_is_refused(tmp_path: Path) -> None:
    with api_vmm("fc", tmp_path / "api", mib=32, shared=True) as vmm:
        with pytest.raises(SourceError, match="Firecracker serves the network while"):
            pagecheck.punch(vmm.source, channels=1)
        assert vmm.changes() == []


def test_private_ram_is_refused(tmp_path: Path) -> None:
    with (
        api_vmm("ch", tmp_path / "api", mib=32) as vmm,
        pytest.raises(SourceError, match="is private to its VMM"),
    ):
        pagecheck.punch(vmm.source)


def test_a_vm_takes_no_word_for_it(tmp_path: Path) -> None:
    with (
        api_vmm("ch", tmp_path / "api", mib=32, shared=True) as vmm,
        pytest.raises(UsageError, match="drop --nobody-writes"),
    ):
        pagecheck.punch(vmm.source, nobody_writes=True)
