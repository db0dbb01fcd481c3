"""Scans of running QEMU guests by process and by QMP: exact while paused, nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import pagecheck
from pagecheck.errors import UsageError
from tests.support.bitmaps import bits
from tests.support.command import scan_json, start
from tests.support.oracle import zero_pages
from tests.support.waiting import wait_for
from tests.vm.qemu_stream import zero_records
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.long(but="q35-file"), pytest.mark.timeout(180)]

MIB = 1 << 20


class Watched(NamedTuple):
    """A guest with a second QMP socket, which is pagecheck's."""

    guest: Guest
    source: str


KINDS = [("q35", "file"), ("q35", "memfd"), ("microvm", "devfd"), ("microvm", "file")]


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def watched(request: pytest.FixtureRequest, guest_files: GuestFiles) -> Iterator[Watched]:
    machine, backend = request.param
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/qmp"
        extra = ["-qmp", f"unix:{path},server=on,wait=off"]
        with Guest.boot(
            machine=machine, backend=backend, random_mb=4, zeros_mb=4, extra=extra
        ) as booted:
            yield Watched(booted, f"qmp:{path}")


def status(guest: Guest) -> str:
    return str(guest.qmp("query-status")["status"])


def assert_exact(report: pagecheck.Report, guest: Guest, expected: np.ndarray) -> None:
    (block,) = report.blocks
    assert block.block.size == guest.spec.size_bytes
    assert report.total.undecided == 0
    assert np.array_equal(bits(block.zero, block.block.pages), expected)
    assert np.array_equal(bits(block.normal, block.block.pages), ~expected)


@pytest.mark.parametrize("by", ["qmp", "pid"])
def test_a_guest_that_others_paused(watched: Watched, by: str) -> None:
    guest = watched.guest
    guest.pause()
    try:
        before = os.stat(guest.ram_path).st_blocks
        source = watched.source if by == "qmp" else f"pid:{guest.pid}"
        report = pagecheck.scan(source, pause=by == "qmp")
        assert_exact(report, guest, zero_pages(guest.ram_path, 4096))
        assert os.stat(guest.ram_path).st_blocks == before
        assert status(guest) == "paused", "we did not stop it"
        if by == "qmp":
            assert report.answer == "paused"
            assert report.pause is not None
            assert not report.pause.stopped_by_us
            assert report.blocks[0].block.name == "ram"
        else:
            assert report.answer == "live"
            assert report.pause is None
    finally:
        guest.resume()


def test_a_running_guest_is_paused_and_runs_again(watched: Watched) -> None:
    guest = watched.guest
    report = pagecheck.scan(watched.source, pause=True, gpa=True)
    assert status(guest) == "running"
    assert report.answer == "paused"
    assert report.pause is not None
    assert report.pause.stopped_by_us
    assert 0 < report.pause.seconds < 5
    assert report.total.undecided == 0
    assert 0 < report.total.zero < report.total.pages
    assert sum(region.memory_size for region in report.blocks[0].regions) > 200 * MIB
    assert guest.wait_check().endswith(" OK")


def test_a_running_guest_that_is_not_paused_gives_a_hint(watched: Watched) -> None:
    report = pagecheck.scan(watched.source)
    assert report.answer == "live"
    assert status(watched.guest) == "running"
    assert report.total.undecided == 0


def test_a_pause_that_lasts_too_long_ends_and_the_answer_is_a_hint(watched: Watched) -> None:
    guest = watched.guest
    report = pagecheck.scan(watched.source, pause=True, max_pause=0.2, max_rate=64 * MIB)
    assert status(guest) == "running"
    assert report.answer == "live"
    assert report.pause is not None
    assert report.pause.expired
    assert any("ran on" in note for note in report.notes)


@pytest.mark.parametrize("victim", ["process", "group"])
def test_the_guest_runs_again_after_a_kill(watched: Watched, victim: str) -> None:
    guest = watched.guest
    slowly = ["--pause", "--max-pause", 60, "--max-rate", "1M"]
    scanner = start(
        *["scan", *slowly, watched.source],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: status(guest) == "paused", "the guest paused")
        if victim == "group":
            os.killpg(scanner.pid, signal.SIGKILL)
        else:
            scanner.kill()
        wait_for(lambda: status(guest) == "running", "the guest running")
    finally:
        scanner.kill()
        scanner.wait(10)
    assert guest.wait_check().endswith(" OK")


def test_what_makes_no_sense_is_refused(watched: Watched) -> None:
    source = watched.source
    for wrong in ({"offset": 4096}, {"length": 4096}, {"kind": "diff"}, {"max_pause": 0}):
        with pytest.raises(UsageError):
            pagecheck.scan(source, **wrong)  # type: ignore[arg-type]
    for wrong in ({"pause": True}, {"gpa": True}):
        with pytest.raises(UsageError, match="qmp:SOCKET"):
            pagecheck.scan(f"pid:{watched.guest.pid}", **wrong)  # type: ignore[arg-type]
    assert status(watched.guest) == "running"


def test_our_zeros_are_the_zero_records_of_a_migration(watched: Watched, tmp_path: Path) -> None:
    """Last of all: a migration fills the holes of the RAM and leaves the guest stopped."""
    guest = watched.guest
    guest.pause()
    before = os.stat(guest.ram_path).st_blocks
    report = pagecheck.scan(watched.source, pause=True)
    assert os.stat(guest.ram_path).st_blocks == before
    stream = tmp_path / "stream"
    guest.qmp("migrate", uri=f"exec:cat>{stream}")
    wait_for(lambda: migrated(guest), "the stream written", 60)
    zero = zero_records(stream, "ram", report.total.pages)
    assert np.array_equal(bits(report.blocks[0].zero, report.total.pages), zero)
    assert report.total.zero == np.count_nonzero(zero) > 0


def migrated(guest: Guest) -> bool:
    state = guest.qmp("query-migrate").get("status")
    assert state in (None, "setup", "active", "device", "completed"), state
    return bool(state == "completed")


@pytest.mark.long
def test_ram_above_4_gib(guest_files: GuestFiles) -> None:
    """q35 puts what is above 2 GiB at 4 GiB; addresses told are where the guest has the pages."""
    with tempfile.TemporaryDirectory() as folder:
        extra = ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        with Guest.boot(size_bytes=3072 * MIB, extra=extra) as guest:
            guest.pause()
            before = os.stat(guest.ram_path).st_blocks
            report = scan_json("--pause", "--gpa", f"qmp:{folder}/qmp")
            expected = zero_pages(guest.ram_path, 4096)
            assert os.stat(guest.ram_path).st_blocks == before
            assert report["answer"] == "paused"
            assert report["total"]["zero"] == np.count_nonzero(expected)
            high = [
                region
                for region in report["blocks"][0]["regions"]
                if region["guest_phys_addr"] >= 1 << 32
            ]
            assert [(r["guest_phys_addr"], r["mmap_offset"]) for r in high] == [
                (1 << 32, 2048 * MIB)
            ]
            assert high[0]["memory_size"] == 1024 * MIB
            guest.resume()
            assert guest.wait_check().endswith(" OK")
