"""Who may have a VM looked at, and stopped, by the API socket of its VMM."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.access import attach, refusals
from tests.support.api_vmm import RESUME, ApiVmm, api_vmm
from tests.support.command import PAGECHECK
from tests.support.crosvm import Crosvm, put_on_path
from tests.support.puppets import MOUNT_NAMESPACE, Puppet, puppet, refusal_in
from tests.support.service import ServiceProcess, StartService
from tests.support.users import NOBODY
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("needs_root")]

WATCHER = NOBODY - 1
STOPPER = NOBODY - 2
PAUSED = {"execute": "check", "arguments": {"block": 0, "pause": True}}


@pytest.fixture(params=["fc", "ch"])
def vmm(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[ApiVmm]:
    """A stand-in of root's, whose socket is root's alone."""
    with api_vmm(request.param, short_folder / "api") as running:
        running.path.chmod(0o700)
        yield running


@pytest.fixture
def service(start_service: StartService, short_folder: Path) -> ServiceProcess:
    path = short_folder / "policy.toml"
    path.write_text(
        f"[[allow]]\nusers = [{WATCHER}]\nvms_of = [0]\n"
        f"[[allow]]\nusers = [{STOPPER}]\nvms_of = [0]\npause = true\n"
    )
    return start_service("--policy", path, "--allow-uid", NOBODY)


def attached(client: Puppet, service: ServiceProcess, vmm: ApiVmm) -> None:
    assert attach(client, service.path, **{vmm.kind: str(vmm.path)})["blocks"]


@pytest.mark.parametrize("uid", [0, STOPPER])
def test_who_may_look_and_stop(service: ServiceProcess, vmm: ApiVmm, uid: int) -> None:
    with puppet(uid) as client:
        attached(client, service, vmm)
        checked = client.call("ask", PAUSED)["return"]
        assert checked["pause"]["stopped_by_us"]
        assert vmm.runs()


def test_who_may_only_look(service: ServiceProcess, vmm: ApiVmm) -> None:
    with puppet(WATCHER) as client:
        attached(client, service, vmm)
        told = refusal_in(client.call("ask", PAUSED))
        assert "may be looked at, but not stopped" in told
        assert vmm.changes() == []
        assert len(refusals(service)) == 1


def test_who_may_not_connect(service: ServiceProcess, vmm: ApiVmm) -> None:
    with puppet(NOBODY) as client:
        told = client.refusal(service.path, **{vmm.kind: str(vmm.path)})
        assert f"may not be connected to by user {NOBODY}" in told


def test_who_may_connect_but_not_read(service: ServiceProcess, vmm: ApiVmm) -> None:
    vmm.path.chmod(0o777)
    with puppet(NOBODY) as client:
        told = client.refusal(service.path, **{vmm.kind: str(vmm.path)})
        assert "runs as uid 0" in told


def test_a_service_whose_capabilities_stay(
    start_service: StartService, vmm: ApiVmm, short_folder: Path
) -> None:
    """With them in effect the kernel would let every user connect to every socket."""
    path = str(short_folder / "own")
    command = ["setpriv", "--securebits=+no_setuid_fixup", PAGECHECK, "serve", "--socket", path]
    service = start_service("--allow-uid", NOBODY, path=path, command=command)
    with puppet(NOBODY) as client:
        told = client.refusal(service.path, **{vmm.kind: str(vmm.path)})
        assert "keeps its capabilities in another user's name" in told


# The service, with room for one process that is left behind.
ONE_LEFT = """
from pagecheck.service import attaching
attaching.LEFT_BEHIND_MAX = 1
from pagecheck.__main__ import main
main()
"""


def test_vms_that_are_not_continued(start_service: StartService, short_folder: Path) -> None:
    """A client's own VMM may refuse for ever, and each time a watchdog stays."""
    policy, path = short_folder / "policy.toml", str(short_folder / "own")
    policy.write_text(f"[[allow]]\nusers = [{STOPPER}]\nvms_of = [0]\npause = true\n")
    command = [sys.executable, "-c", ONE_LEFT, "serve", "--socket", path, "--policy", str(policy)]
    service = start_service(path=path, command=command)
    with api_vmm("ch", short_folder / "api") as vmm, puppet(STOPPER) as client, puppet() as root:
        attached(client, service, vmm)
        vmm.fail({RESUME["ch"]: 'then status 500 ["not yet"]'})
        assert "not yet" in client.call("ask", PAUSED)["error"]["desc"]
        client.call("ask", {"execute": "detach", "arguments": {"block": 0}})
        error = asked(client, vmm)["error"]
        assert error["class"] == "LimitError"
        assert "wait for VMs that are not continued" in error["desc"]
        attached(root, service, vmm)
        vmm.fail({})
        assert vmm.runs()
        wait_for(lambda: "return" in asked(client, vmm), "its watchdog has ended")


@pytest.fixture
def crosvm(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crosvm]:
    """A stand-in of root's, whose socket is root's alone."""
    put_on_path(short_folder, monkeypatch)
    running = Crosvm(short_folder)
    running.path.chmod(0o700)
    yield running
    running.end()


def test_who_may_look_at_a_crosvm_and_stop_it(crosvm: Crosvm, service: ServiceProcess) -> None:
    with puppet(STOPPER) as client:
        assert attach(client, service.path, crosvm=str(crosvm.path))["blocks"]
        assert client.call("ask", PAUSED)["return"]["pause"]["stopped_by_us"]
        assert crosvm.runs()


def test_who_may_not_look_at_a_crosvm(crosvm: Crosvm, service: ServiceProcess) -> None:
    with puppet(NOBODY) as client:
        for mode in (0o700, 0o777):  # to ask for its state takes the right to ptrace it, too
            crosvm.path.chmod(mode)
            told = client.refusal(service.path, crosvm=str(crosvm.path))
            assert f"may not be connected to by user {NOBODY}" in told
        assert crosvm.runs()


def asked(client: Puppet, vmm: ApiVmm) -> dict[str, Any]:
    request = {"execute": "attach", "arguments": {vmm.kind: str(vmm.path)}}
    answer: dict[str, Any] = client.call("ask", request)
    return answer


def assert_elsewhere(answer: dict[str, Any], service: ServiceProcess) -> None:
    assert answer["error"]["class"] == "SourceError"
    assert "another socket: it is in another mount namespace" in answer["error"]["desc"]
    assert len(refusals(service)) == 1


def test_a_service_with_mounts_of_its_own(
    start_service: StartService, vmm: ApiVmm, short_folder: Path
) -> None:
    """As systemd gives it; the socket is the same one."""
    path = str(short_folder / "own")
    command = ["unshare", "--mount", PAGECHECK, "serve", "--socket", path]
    service = start_service(path=path, command=command)
    with puppet() as client:
        attached(client, service, vmm)


def test_a_client_that_cannot_see_the_socket(service: ServiceProcess, vmm: ApiVmm) -> None:
    with puppet() as client:
        client.call("connect", service.path)
        client.call("unshare", MOUNT_NAMESPACE)
        assert "return" in asked(client, vmm)
        client.call("ask", {"execute": "detach", "arguments": {"block": 0}})
        client.call("hide", str(vmm.path.parent))
        assert_elsewhere(asked(client, vmm), service)


def test_a_client_with_another_root_directory(
    service: ServiceProcess, vmm: ApiVmm, tmp_path: Path
) -> None:
    """A link to a folder outside leads to the socket for us, and nowhere for the client."""
    with puppet() as client:
        client.call("connect", service.path)
        client.call("change_root", str(tmp_path), str(vmm.path.parent))
        assert os.path.exists(f"/proc/{client.pid}/root{vmm.path}")
        assert_elsewhere(asked(client, vmm), service)
