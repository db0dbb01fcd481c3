"""A Firecracker and a Cloud Hypervisor paused and continued, by stand-ins for both."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.model import VM_KINDS
from pagecheck.vmm import VmmMonitor
from pagecheck.vmm.kinds import KINDS
from tests.support.api_vmm import PAUSE, RESUME, STATE, ApiVmm, api_vmm
from tests.support.qmp import in_watchdog
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.long(but="fc"), pytest.mark.usefixtures("clean")]

BOUND_S = 30.0
IMPATIENT = (
    "import pagecheck.vmm.hold.watchdog as w, pagecheck.vmm.hold.http as h, "
    "pagecheck.vmm.hold.api_control as a, "
    "pagecheck.vmm.hold.listener as n; "
    "w.END_S = h.REQUEST_S = h.CONNECT_S = a.CONNECT_S = n.CONNECT_S = 0.5; "
    "h.ABANDON_S = 1.0"
)


@pytest.fixture(params=["fc", "ch"])
def vmm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiVmm]:
    with api_vmm(request.param, tmp_path / "api") as running:
        yield running


def monitor_of(vmm: ApiVmm) -> VmmMonitor:
    return VmmMonitor(KINDS[vmm.kind], str(vmm.path))


def wait_for_watchdogs(vmm: ApiVmm) -> None:
    """Waits for those that stayed."""
    for each in psutil.Process().children():
        if each.pid != vmm.pid:
            each.wait(BOUND_S)


def changed(vmm: ApiVmm, *names: str) -> bool:
    """Whether these were the only requests that changed something: "pause", "resume"."""
    return vmm.changes() == [{"pause": PAUSE, "resume": RESUME}[name][vmm.kind] for name in names]


def test_every_socket_has_a_kind_of_source() -> None:
    assert ("pid", *KINDS) == VM_KINDS


def test_it_is_stopped_and_continued(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        assert monitor.peer_pid == vmm.pid
        assert not monitor.is_stopped()
        for _ in range(3):
            monitor.pause(60)
            assert vmm.state() == "Paused"
            result = monitor.resume()
            assert result[1:] == (True, False, True, False)
            assert result.paused_ns > 0
            assert monitor.why_moved == ""
            assert vmm.runs()
    assert changed(vmm, *["pause", "resume"] * 3)


def test_the_end_of_the_block_continues_it(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
    assert vmm.runs()
    assert changed(vmm, "pause", "resume")


def test_one_that_was_paused_stays_so(vmm: ApiVmm) -> None:
    vmm.pause()
    with monitor_of(vmm) as monitor:
        assert monitor.is_stopped()
        monitor.pause(60)
        assert monitor.resume() == (0, True, False, False, False)
    assert vmm.state() == "Paused"
    assert changed(vmm, "pause")


@pytest.mark.parametrize("state", ["Not started", "Created", "Shutdown", "BreakPoint", "Later"])
def test_in_other_states_it_is_left_alone(tmp_path: Path, state: str) -> None:
    kind = "fc" if state == "Not started" else "ch"
    with api_vmm(kind, tmp_path / "api", state=state) as vmm, monitor_of(vmm) as monitor:
        assert not monitor.is_stopped()
        monitor.pause(60)
        assert monitor.resume() == (0, False, False, False, False)
        assert changed(vmm)


def test_a_cloud_hypervisor_without_a_vm(tmp_path: Path) -> None:
    with api_vmm("ch", tmp_path / "api", state="none") as vmm, monitor_of(vmm) as monitor:
        monitor.pause(60)
        assert not monitor.resume().stood_still


@pytest.mark.parametrize("text", ["VM is not created", "VmNotCreated"])
def test_an_older_cloud_hypervisor_without_a_vm(tmp_path: Path, text: str) -> None:
    with api_vmm("ch", tmp_path / "api", state="none") as vmm:
        vmm.fail({STATE["ch"]: f'then status 500 ["Error from API", "{text}"]'})
        with monitor_of(vmm) as monitor:
            assert not monitor.is_stopped()


def test_it_is_left_stopped(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        assert monitor.resume(leave_stopped=True)[1:] == (True, False, True, True)
        monitor.pause(60)  # it is somebody else's now
        assert monitor.resume()[1:] == (True, False, False, False)
    assert vmm.state() == "Paused"
    assert changed(vmm, "pause")


def test_somebody_else_continues_it(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.resume()
        result = monitor.resume(leave_stopped=True)
        assert result[1:] == (False, False, True, False)
        assert monitor.why_moved == ""
        assert vmm.runs()
    assert changed(vmm, "pause", "resume")


def test_somebody_else_continues_it_and_pauses_it_again(vmm: ApiVmm) -> None:
    """No state shows it; the threads that ran do."""
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.resume()
        assert vmm.runs()
        vmm.pause()
        result = monitor.resume(leave_stopped=True)
        assert result[1:] == (False, False, True, False)
        assert re.search(r"thread '.*' of .* ran while the VM was paused", monitor.why_moved)
        assert vmm.runs()


def test_a_vm_that_was_paused_is_continued_and_paused_again(vmm: ApiVmm) -> None:
    vmm.pause()
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.resume()
        vmm.pause()
        assert not monitor.resume().stood_still
    assert vmm.state() == "Paused"


def test_a_device_writes_guest_ram(vmm: ApiVmm) -> None:
    """The vCPUs stand still, and the VMM's own thread does not."""
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.write(2)
        assert not monitor.resume().stood_still
        assert "thread 'python'" in monitor.why_moved
    assert vmm.runs()


def test_the_state_is_asked_in_a_pause(vmm: ApiVmm) -> None:
    """Who answers runs, so that nothing proves what else it did."""
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        assert monitor.is_stopped()
        assert not monitor.resume().stood_still
        assert "the VMM was asked" in monitor.why_moved
        monitor.pause(60)
        assert monitor.resume().stood_still


def test_the_longest_time_passes(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(0.2)
        wait_for(lambda: vmm.state() == "Running", "it was continued", BOUND_S)
        result = monitor.resume()
        assert (result.stood_still, result.expired, result.stopped_by_us) == (False, True, True)
        assert monitor.why_moved == ""


def test_a_pause_that_firecracker_refuses_is_undone(tmp_path: Path) -> None:
    """A vCPU that did not answer: the others are stopped, and the state is Running."""
    with api_vmm("fc", tmp_path / "api") as vmm:
        text = '{"fault_message": "Failed to send message to the vCPUs"}'
        vmm.fail({PAUSE["fc"]: f"then status 400 {text} once"})
        with monitor_of(vmm) as monitor:
            with pytest.raises(PeerError, match=r"refused PATCH /vm: Failed to send .*HTTP 400"):
                monitor.pause(60)
            assert changed(vmm, "pause", "resume")
            monitor.pause(60)
            assert monitor.resume().stood_still


def test_a_pause_that_cloud_hypervisor_refuses_is_not_ours(tmp_path: Path) -> None:
    """Somebody was faster: what he paused stays paused."""
    with api_vmm("ch", tmp_path / "api") as vmm:
        vmm.fail({PAUSE["ch"]: 'carry out, then status 500 ["a", "Paused to Paused"] once'})
        refused = r"refused PUT .*/vm.pause: a: Paused to Paused"
        with monitor_of(vmm) as monitor, pytest.raises(PeerError, match=refused):
            monitor.pause(60)
        assert vmm.state() == "Paused"
        assert changed(vmm, "pause")


def test_a_pause_is_carried_out_and_its_answer_is_lost(vmm: ApiVmm) -> None:
    vmm.fail({PAUSE[vmm.kind]: "carry out, then hangup once"})
    with monitor_of(vmm) as monitor:
        with pytest.raises(PeerError, match=r"no answer to .*has .* ended"):
            monitor.pause(60)
        assert vmm.runs()


def test_a_pause_that_is_not_answered(vmm: ApiVmm, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was carried out: a new connection is made in the end, and the VM continued."""
    in_watchdog(monkeypatch, IMPATIENT)
    with monitor_of(vmm) as monitor:
        vmm.fail({PAUSE[vmm.kind]: "carry out, then silent once"})
        with pytest.raises(PeerError, match=r"did not answer P.* in "):
            monitor.pause(60)
    wait_for_watchdogs(vmm)
    assert vmm.runs()


def test_a_resume_that_is_refused_is_tried_again(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.fail({RESUME[vmm.kind]: 'then status 500 ["not yet"] once'})
        with pytest.raises(PeerError, match=r"refused .*not yet.*\(HTTP 500\); the VM is stopped"):
            monitor.resume()
    assert vmm.runs()


def test_somebody_else_is_faster_to_continue_it(tmp_path: Path) -> None:
    with api_vmm("ch", tmp_path / "api") as vmm, monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.fail({RESUME["ch"]: 'carry out, then status 500 ["Running to Running"] once'})
        assert monitor.resume().stopped_by_us
        assert vmm.runs()


def test_a_vm_that_left_is_reported(tmp_path: Path) -> None:
    with api_vmm("ch", tmp_path / "api") as vmm, monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.become("none")
        with pytest.raises(SourceError, match=r"has no VM any more.*at its destination"):
            monitor.resume()
        with pytest.raises(UsageError, match="is not paused"):
            monitor.resume()


def test_it_ends_while_it_is_stopped(vmm: ApiVmm) -> None:
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.end()
        with pytest.raises(PeerError, match=r"nobody listens any more.*ended|no answer to"):
            monitor.resume()


def test_it_is_frozen_at_the_end(
    vmm: ApiVmm, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_watchdog(monkeypatch, IMPATIENT)
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.freeze()
    (said,) = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    match = re.search(r"the VM is stopped: watchdog (\d+) stays and continues it", said)
    assert match is not None
    watchdog = psutil.Process(int(match[1]))
    vmm.thaw()
    watchdog.wait(BOUND_S)
    assert vmm.runs()


def test_each_watchdog_that_stays_is_reported(
    vmm: ApiVmm, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an error said of an earlier pause says nothing of this one."""
    in_watchdog(monkeypatch, IMPATIENT)
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.fail({RESUME[vmm.kind]: 'then status 500 ["not yet"] once'})
        with pytest.raises(PeerError, match="the VM is stopped: watchdog"):
            monitor.resume()
        monitor.resume()
        monitor.pause(60)
        vmm.freeze()
    (said,) = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
    assert "the VM is stopped: watchdog" in said
    vmm.thaw()
    wait_for_watchdogs(vmm)
    assert vmm.runs()


def test_another_process_takes_the_path(vmm: ApiVmm, tmp_path: Path) -> None:
    """The connection is to ours still; the other VM is not touched."""
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.path.rename(tmp_path / "old")
        with api_vmm(vmm.kind, vmm.path) as other:
            other.pause()
            assert monitor.resume().stood_still
            vmm.path.unlink()
            (tmp_path / "old").rename(vmm.path)
            assert other.state() == "Paused"
            assert changed(other, "pause")
    assert changed(vmm, "pause", "resume")


def test_another_process_at_the_path_after_a_loss(vmm: ApiVmm, tmp_path: Path) -> None:
    """Ours hangs up: the VM at its path is another one, which somebody paused."""
    with monitor_of(vmm) as monitor:
        monitor.pause(60)
        vmm.fail({RESUME[vmm.kind]: "carry out, then hangup once"})
        vmm.path.rename(tmp_path / "old")
        with api_vmm(vmm.kind, vmm.path) as other:
            other.pause()
            with pytest.raises(PeerError, match=r"no answer to"):
                monitor.resume()
            with pytest.raises(SourceError, match=r"another socket is at its path.*lives"):
                monitor.resume()
            assert changed(other, "pause")
            vmm.path.unlink()
            (tmp_path / "old").rename(vmm.path)
    wait_for_watchdogs(vmm)
    assert vmm.runs()


def test_a_connection_that_is_closed_between_two_requests(vmm: ApiVmm) -> None:
    """As HTTP allows: nothing is missed by it."""
    for fault in ("carry out, then idle", "carry out, then last"):
        vmm.fail({"*": fault})
        with monitor_of(vmm) as monitor:
            monitor.pause(60)
            assert monitor.resume().stood_still
            assert vmm.runs()


def test_the_other_vmm(tmp_path: Path) -> None:
    with (
        api_vmm("fc", tmp_path / "fc") as fc,
        pytest.raises(PeerError, match=r"Cloud Hypervisor refused GET .*: Invalid request method"),
    ):
        VmmMonitor(KINDS["ch"], str(fc.path))
    with (
        api_vmm("ch", tmp_path / "ch") as ch,
        pytest.raises(PeerError, match=r"Firecracker refused GET /: Not Found \(HTTP 404\)"),
    ):
        VmmMonitor(KINDS["fc"], str(ch.path))


@pytest.mark.parametrize("kind", ["fc", "ch"])
def test_nobody_is_there(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SourceError, match=r"nobody listens .*; start .* with --api-sock"):
        VmmMonitor(KINDS[kind], str(tmp_path / "missing"))
    with pytest.raises(SourceError, match=rf"write {kind}:/path/to/socket"):
        VmmMonitor(KINDS[kind], "")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=r"is not a socket; give the path of .* --api-sock"):
        VmmMonitor(KINDS[kind], str(tmp_path / "file"))


def test_only_questions_are_asked(vmm: ApiVmm) -> None:
    path = STATE[vmm.kind].split()[1]
    with monitor_of(vmm) as monitor:
        assert monitor.execute(f"GET {path}")["state"] == "Running"
        for command in ("PUT /actions", "GET", "PATCH /vm"):
            with pytest.raises(Exception, match="only GET /PATH is asked"):
                monitor.execute(command)
    assert changed(vmm)
