"""Scans of a Firecracker and a Cloud Hypervisor, by stand-ins: paused, killed, frozen."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError, UsageError
from pagecheck.vmm import open_vm
from tests.support.api_vmm import PAUSE, RESUME, ApiVmm, api_vmm
from tests.support.processes import children_of, kill, stop
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("clean")]

MIB = 64
PAGES = MIB << 8
BOUND_S = 60.0
SCAN = (
    "import sys, pagecheck, pagecheck.vmm.hold.watchdog_process as watchdog\n"
    "watchdog.SILENT_S = 5\n"
    "print('ready', flush=True)\n"
    "pagecheck.scan(sys.argv[1], pause=True, channels=1, engine='cpu', max_rate=20 << 20)\n"
)


@pytest.fixture(params=["fc-private", "fc-shared", "ch-private", "ch-shared"])
def vmm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiVmm]:
    kind, _, backing = request.param.partition("-")
    shared = backing == "shared"
    with api_vmm(kind, tmp_path / "api", mib=MIB, shared=shared) as running:
        yield running


def scan(vmm: ApiVmm, **options: object) -> pagecheck.Report:
    return pagecheck.scan(vmm.source, channels=1, engine="cpu", **options)  # type: ignore[arg-type]


def test_paused(vmm: ApiVmm) -> None:
    report = scan(vmm, pause=True)
    assert report.answer == "paused"
    assert report.pause is not None
    assert report.pause.stopped_by_us
    assert report.total.normal == PAGES // 2 + 1  # every second one, and the one of the vCPUs
    assert report.total.undecided == 0
    assert vmm.runs()


def test_live(vmm: ApiVmm) -> None:
    report = scan(vmm)
    assert report.answer == "live"
    assert report.total.undecided == 0
    assert vmm.changes() == []


def test_left_stopped(vmm: ApiVmm) -> None:
    report = scan(vmm, pause=True, leave_stopped=True)
    assert report.pause is not None
    assert report.pause.left_stopped
    assert vmm.state() == "Paused"


def test_a_device_that_writes_makes_a_hint(vmm: ApiVmm) -> None:
    done = []

    def progress(_done: int, _size: int) -> None:
        if not done:
            done.append(vmm.write(2))

    report = scan(vmm, pause=True, max_rate=64 << 20, progress=progress)
    assert report.answer == "live"
    assert report.why_live is not None
    assert re.search(r"thread 'python' of .* ran while the VM was paused", report.why_live)
    assert f"{report.why_live}: the answer is a hint" in report.notes
    done.clear()
    with pytest.raises(SourceError, match=r"ran while the VM was paused.*; it is not left stopped"):
        scan(vmm, pause=True, leave_stopped=True, max_rate=64 << 20, progress=progress)
    assert vmm.runs()


def test_a_process_id_names_no_socket(vmm: ApiVmm) -> None:
    (ram,) = [each for each in pagecheck.explain(f"pid:{vmm.pid}") if each.size == MIB << 20]
    with pytest.raises(UsageError, match=r"give qmp:SOCKET, .* or crosvm:SOCKET, or pause"):
        pagecheck.scan(f"pid:{vmm.pid}:@{ram.start:x}-{ram.end:x}", pause=True)


def test_it_is_opened_by_hand(vmm: ApiVmm) -> None:
    with open_vm(vmm.source) as vm:
        assert vm.can_pause
        assert [ram.size for ram in vm.rams] == [MIB << 20]
        vm.pause(60)
        assert vmm.state() == "Paused"
    assert vmm.runs()


@contextlib.contextmanager
def scanning(vmm: ApiVmm) -> Iterator[subprocess.Popen[str]]:
    """A scan of some seconds in a process of its own, about to begin."""
    running = subprocess.Popen(
        [sys.executable, "-c", SCAN, vmm.source], stdout=subprocess.PIPE, text=True
    )
    with running:
        try:
            assert running.stdout is not None
            running.stdout.readline()
            yield running
        finally:
            running.kill()


def watchdog_of(pid: int) -> int:
    """The watchdog of a scan that holds the VM."""
    for each in children_of(pid):
        with contextlib.suppress(OSError):
            if b"pagecheck.vmm.hold.watchdog" in Path(f"/proc/{each}/cmdline").read_bytes():
                return each
    return 0


def held(vmm: ApiVmm, running: subprocess.Popen[str]) -> int:
    wait_for(lambda: vmm.state() == "Paused", "it is paused", BOUND_S)
    return watchdog_of(running.pid)


def goes_on(vmm: ApiVmm) -> None:
    wait_for(lambda: vmm.state() == "Running", "it goes on", BOUND_S)
    assert vmm.runs()


@pytest.fixture(params=["fc-private", "ch-shared"])
def one(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiVmm]:
    """As `vmm`, fewer of them."""
    kind, _, backing = request.param.partition("-")
    with api_vmm(kind, tmp_path / "api", mib=MIB, shared=backing == "shared") as running:
        yield running


def test_the_scanner_is_killed(one: ApiVmm) -> None:
    with scanning(one) as running:
        held(one, running)
        kill(running.pid)
        goes_on(one)
    assert one.changes() == [PAUSE[one.kind], RESUME[one.kind]]


def test_the_watchdog_is_killed(one: ApiVmm) -> None:
    with scanning(one) as running:
        kill(held(one, running))
        goes_on(one)


def test_both_are_frozen_and_the_scanner_dies(one: ApiVmm) -> None:
    with scanning(one) as running:
        watchdog = held(one, running)
        stop(running.pid)
        stop(watchdog)
        os.kill(running.pid, signal.SIGKILL)
        assert one.state() == "Paused"
        os.kill(watchdog, signal.SIGCONT)
        goes_on(one)


def test_the_watchdog_is_frozen_for_good(one: ApiVmm) -> None:
    """Its owner notices it at the end, and another one continues the VM."""
    with scanning(one) as running:
        stop(held(one, running))
        goes_on(one)


def test_one_that_was_paused_stays_so_whatever_dies(one: ApiVmm) -> None:
    one.pause()
    with scanning(one) as running:
        watchdog = wait_for(lambda: watchdog_of(running.pid), "a watchdog", BOUND_S)
        kill(running.pid)
        wait_for(lambda: not os.path.exists(f"/proc/{watchdog}"), "the watchdog ended", BOUND_S)
    assert one.state() == "Paused"
    assert one.changes() == [PAUSE[one.kind]]


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_points(one: ApiVmm, seed: int) -> None:
    """Of the scanner or of the watchdog, from before the pause until after the resume."""
    choose = random.Random(seed)
    for _ in range(2):
        with scanning(one) as running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(choose.uniform(0.1, 1.5))
            watchdog = watchdog_of(running.pid)
            kill(watchdog if choose.random() < 0.5 and watchdog else running.pid)
            goes_on(one)
            running.kill()
        goes_on(one)
