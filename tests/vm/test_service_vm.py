"""The service beside a running QEMU: attached by QMP and by process, paused, continued for sure."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pagecheck import Client
from pagecheck.errors import LimitError, UsageError
from tests.support.bitmaps import bits
from tests.support.command import assert_fails, pagecheck, start
from tests.support.oracle import zero_pages
from tests.support.service import ServiceProcess, services
from tests.support.waiting import wait_for
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


class Beside(NamedTuple):
    """A running guest with a QMP socket for the service, and a service."""

    guest: Guest
    qmp: str
    folder: str

    @property
    def socket(self) -> str:
        return f"{self.folder}/socket"


@pytest.fixture(scope="module")
def beside(guest_files: GuestFiles) -> Iterator[Beside]:
    with tempfile.TemporaryDirectory() as folder:
        extra = ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        with Guest.boot(backend="memfd", random_mb=4, zeros_mb=4, extra=extra) as guest:
            yield Beside(guest, f"qmp:{folder}/qmp", folder)


@pytest.fixture
def service(beside: Beside) -> Iterator[ServiceProcess]:
    with services(Path(beside.folder)) as start:
        yield start("--max-pause", 20, path=beside.socket)


def status(guest: Guest) -> str:
    return str(guest.qmp("query-status")["status"])


@pytest.mark.usefixtures("service")
@pytest.mark.parametrize("by", ["qmp", "pid"])
def test_a_paused_guest_page_for_page(beside: Beside, by: str) -> None:
    guest = beside.guest
    guest.pause()
    try:
        before = os.stat(guest.ram_path).st_blocks
        expected = zero_pages(guest.ram_path, 4096)
        with Client(beside.socket) as client:
            source = beside.qmp if by == "qmp" else f"pid:{guest.pid}"
            blocks = client.attach(source)
            checked = client.check(blocks, pause=by == "qmp")
            assert checked.answer == ("paused" if by == "qmp" else "live")
            (block,) = checked.blocks
            assert np.array_equal(bits(block.zero, len(expected)), expected)
            assert np.array_equal(bits(block.normal, len(expected)), ~expected)
            channel = client.open_channel()
            offsets = np.random.default_rng(1).integers(0, len(expected), 2000) * 4096
            answer = channel.check(blocks[0], offsets.astype(np.uint64))
            assert answer.decided.all()
            assert np.array_equal(answer.zero, expected[offsets // 4096])
            if by == "qmp":
                # The firmware's part lies at the same addresses as in the file.
                some = client.check(blocks, ranges=[{"gpa": 16 << 20, "size": 4 << 20}])
                found = bits(some.blocks[0].zero, len(expected))
                assert np.array_equal(found[4096:5120], expected[4096:5120])
                assert some.blocks[0].counts.pages == 1024
        assert os.stat(guest.ram_path).st_blocks == before
        assert status(guest) == "paused"
    finally:
        guest.resume()


@pytest.mark.usefixtures("service")
def test_scan_via_pauses_and_continues(beside: Beside) -> None:
    ran = pagecheck("scan", "--via", beside.socket, "--pause", "--gpa", beside.qmp)
    assert ran.returncode == 0
    assert "paused: the guest was paused" in ran.stdout
    assert "guest-physical 0x0" in ran.stdout
    assert status(beside.guest) == "running"
    with Client(beside.socket) as client:
        numbers = client.stats()["numbers"]
        assert numbers["pauses"] == 1
        assert 0 < numbers["pause_seconds"] < 5
    assert beside.guest.wait_check().endswith(" OK")


def test_a_service_may_allow_less_than_a_scan_takes_by_itself(beside: Beside) -> None:
    with services(Path(beside.folder)) as start_service:
        start_service("--max-pause", 4, path=beside.socket)
        ran = pagecheck("scan", "--via", beside.socket, "--pause", beside.qmp)
        assert "paused: the guest was paused" in ran.stdout, ran.stderr
        assert_fails(
            pagecheck("scan", "--via", beside.socket, "--pause", "--max-pause", 5, beside.qmp),
            *(4, "max_pause", "allows 4.0 s"),
        )


def held_up(beside: Beside) -> subprocess.Popen:
    """A client whose check holds the guest for as long as it lives."""
    slowly = ["--pause", "--max-pause", 20, "--max-rate", "1M"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    client = start("scan", "--via", beside.socket, *slowly, beside.qmp, **silent)
    wait_for(lambda: status(beside.guest) == "paused", "the guest paused")
    return client


def test_the_guest_runs_again_after_the_client_is_killed(
    beside: Beside, service: ServiceProcess
) -> None:
    client = held_up(beside)
    client.kill()
    client.wait(10)
    wait_for(lambda: status(beside.guest) == "running", "the guest running")
    assert service.process.poll() is None
    with Client(beside.socket) as other:
        assert other.check(other.attach(beside.qmp)).blocks[0].counts.undecided == 0


def test_the_guest_runs_again_after_the_service_is_killed(
    beside: Beside, service: ServiceProcess
) -> None:
    client = held_up(beside)
    service.kill()
    wait_for(lambda: status(beside.guest) == "running", "the guest running")
    assert client.wait(20) == 3


def test_the_guest_runs_again_when_the_service_is_told_to_end(
    beside: Beside, service: ServiceProcess
) -> None:
    client = held_up(beside)
    service.process.terminate()
    wait_for(lambda: status(beside.guest) == "running", "the guest running")
    assert service.process.wait(20) == 0
    assert client.wait(20) == 3


@pytest.mark.usefixtures("service")
def test_pauses_that_are_not_allowed(beside: Beside, tmp_path: Path) -> None:
    with Client(beside.socket) as client:
        by_process = client.attach(f"pid:{beside.guest.pid}")
        with pytest.raises(UsageError, match="qmp:SOCKET"):
            client.check(by_process, pause=True)
        for block in by_process:
            client.detach(block)
        by_qmp = client.attach(beside.qmp)
        with pytest.raises(LimitError, match="20"):
            client.check(by_qmp, pause=True, max_pause=21)
    assert status(beside.guest) == "running"
