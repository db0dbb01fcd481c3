"""A pause that ends with QEMU: the VM is held until `quit` was answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm import QemuMonitor
from tests.support.qmp import FakeQemu, fake_qemu, in_watchdog
from tests.support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[FakeQemu]:
    with fake_qemu(tmp_path / "qmp") as fake:
        fake.answers["quit"] = {}
        yield fake


def test_it_is_ours_until_that_is_answered(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.answers["quit"] = lambda _arguments: {"held": monitor._held}
        result = monitor.quit()
        assert (result.stood_still, result.stopped_by_us, result.left_stopped) == (True,) * 3
        assert not monitor._held
    assert qemu.commands[-1] == "quit"
    assert "cont" not in qemu.commands


def test_a_vm_that_was_stopped_before(qemu: FakeQemu) -> None:
    qemu.status = "paused"
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        assert monitor.quit()[1:] == (True, False, False, False)
    assert qemu.commands[-1] == "quit"


def test_it_runs_on_where_it_moved(qemu: FakeQemu) -> None:
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        qemu.events = ["RESET"]
        assert not monitor.quit().stood_still
    assert "quit" not in qemu.commands
    assert qemu.status == "running"


def test_it_runs_on_where_qemu_refuses(qemu: FakeQemu) -> None:
    del qemu.answers["quit"]
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match=r"QEMU refused quit: [^;]*$"):
            monitor.quit()
        assert qemu.status == "running"
        monitor.pause(60)
        monitor.resume()


def test_it_runs_on_where_qemu_hangs_up_and_stays(qemu: FakeQemu) -> None:
    qemu.raw["quit"] = lambda _number: None
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match="the connection was lost at quit"):
            monitor.quit()
    assert qemu.status == "running"


@pytest.mark.parametrize("before", ["running", "paused"])
def test_it_is_as_before_where_that_is_never_answered(
    qemu: FakeQemu, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    waits = "m.COMMAND_S, m.ABANDON_S = 0.2, 1"
    in_watchdog(monkeypatch, f"import pagecheck.vmm.hold.monitor as m; {waits}")
    qemu.status = before
    qemu.raw["quit"] = lambda _number: b""
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        with pytest.raises(PeerError, match="QEMU did not answer"):
            monitor.quit()
    wait_for(lambda: qemu.status == before, "it is as it was", 30)
    assert ("cont" in qemu.commands) == (before == "running")


@pytest.mark.parametrize("before", ["running", "paused"])
def test_it_ends_before_its_answer_was_sent(qemu: FakeQemu, before: str) -> None:
    qemu.status = before
    qemu.raw["quit"] = lambda _number: qemu.end()
    with QemuMonitor(str(qemu.path)) as monitor:
        monitor.pause(60)
        assert monitor.quit().stood_still
