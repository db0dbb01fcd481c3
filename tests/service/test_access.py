"""What a client may have the service look at: processes that the kernel would let it ptrace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import explain
from pagecheck.service.limits import VMS_PER_CLIENT
from tests.service.access import attach, refusals
from tests.support.command import PAGECHECK
from tests.support.processes import living
from tests.support.puppets import (
    PID_NAMESPACE,
    RAM_BYTES,
    RAM_NAME,
    USER_NAMESPACE,
    Puppet,
    puppet,
    refusal_in,
    stand_in,
)
from tests.support.service import ServiceProcess, StartService
from tests.support.users import NOBODY

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("needs_root")]

OTHER = NOBODY - 1
SYS_PTRACE = 19
RULE = "by the kernel's rule for ptrace"


@pytest.fixture
def service(start_service: StartService) -> ServiceProcess:
    """A service of root's that lets both users in."""
    return start_service("--allow-uid", NOBODY, "--allow-uid", OTHER)


@pytest.fixture
def nobody() -> Iterator[Puppet]:
    with puppet(NOBODY) as one:
        yield one


def assert_refused(client: Puppet, service: ServiceProcess, target: Puppet, *whys: str) -> None:
    """The client may not attach; it is told why, and so is the log, once, with who and whom."""
    told = client.refusal(service.path, pid=target.pid)
    for why in (RULE, *whys, f"pid:{target.pid}: process {target.pid} of user "):
        assert why in told
    (line,) = refusals(service)
    assert told in line
    assert f"refused to process {client.pid} of user " in line


def test_an_own_process(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY) as vm:
        found = attach(nobody, service.path, pid=vm.pid)
        assert [block["size"] for block in found["blocks"]] == [RAM_BYTES]
        checked = nobody.call("ask", {"execute": "check", "arguments": {"block": 0}})
        counts = checked["return"]["blocks"][0]["counts"]
        assert (counts["zero"], counts["normal"]) == (RAM_BYTES // 8192, RAM_BYTES // 8192)
        assert refusals(service) == []


def test_one_block_by_its_name(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY) as vm:
        found = attach(nobody, service.path, pid=vm.pid, name=RAM_NAME)
        assert [block["name"] for block in found["blocks"]] == [RAM_NAME]


@pytest.mark.parametrize("uid", [0, OTHER])
def test_a_process_of_somebody_else(service: ServiceProcess, nobody: Puppet, uid: int) -> None:
    with stand_in(uid) as vm:
        assert_refused(nobody, service, vm, f"runs as uid {uid}", f"of user {uid}")


def test_the_service_itself(service: ServiceProcess, nobody: Puppet) -> None:
    assert RULE in nobody.refusal(service.path, pid=service.pid)


def test_root_looks_at_all(service: ServiceProcess) -> None:
    with stand_in(NOBODY) as vm, puppet() as root:
        assert attach(root, service.path, pid=vm.pid)["blocks"]


def test_a_process_that_is_not_dumpable(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY) as vm:
        vm.call("dumpable", 0)
        assert_refused(nobody, service, vm, "not dumpable")


def test_another_group(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY, gid=OTHER) as vm:
        assert_refused(nobody, service, vm, f"runs as gid {OTHER}")


def test_supplementary_groups_are_no_right(service: ServiceProcess) -> None:
    with stand_in(NOBODY, gid=OTHER) as vm, puppet(NOBODY, groups=(OTHER, 0)) as client:
        assert_refused(client, service, vm, f"runs as gid {OTHER}")


def test_a_process_with_several_ids(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in() as vm:
        vm.call("become_in_part", NOBODY, NOBODY, 0)
        vm.call("dumpable", 1)
        assert_refused(nobody, service, vm, "saved uid differ")


def test_a_process_with_more_capabilities(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in() as vm:
        vm.call("become", NOBODY, NOBODY, [], True)
        assert_refused(nobody, service, vm, "has capabilities that the client lacks")


def test_a_client_with_the_capability(service: ServiceProcess) -> None:
    with stand_in() as vm, puppet() as client:
        client.call("become", NOBODY, NOBODY, [], True)
        assert attach(client, service.path, pid=vm.pid)["blocks"]


def test_a_capability_of_a_program_s_file(service: ServiceProcess) -> None:
    """A process that is not dumpable may have got it from the file of a program that others have
    started: it does not count."""
    with stand_in() as vm, puppet() as client:
        client.call("become", NOBODY, NOBODY, [], True)
        client.call("dumpable", 0)
        assert_refused(client, service, vm, "runs as uid 0")


def test_root_without_the_capability(service: ServiceProcess) -> None:
    """As in a container."""
    with stand_in(OTHER) as vm, puppet() as client:
        client.call("drop", SYS_PTRACE)
        assert_refused(client, service, vm, f"runs as uid {OTHER}", "CAP_SYS_PTRACE")


def test_root_without_the_capability_and_its_own_process(service: ServiceProcess) -> None:
    """It has no more rights than the client, and may be hiding all the same."""
    with stand_in() as vm, puppet() as client:
        for each in (vm, client):
            each.call("drop", SYS_PTRACE)
        assert_refused(client, service, vm, "it may be not dumpable")


def test_root_without_the_capability_by_source(service: ServiceProcess) -> None:
    with stand_in(OTHER) as vm, puppet() as client:
        client.call("drop", SYS_PTRACE)
        told = client.refusal(service.path, source=f"pid:{vm.pid}")
        assert "CAP_SYS_PTRACE" in told
        assert told in refusals(service)[0]


def test_a_capability_in_a_namespace_of_its_own(service: ServiceProcess, nobody: Puppet) -> None:
    nobody.call("unshare", USER_NAMESPACE)  # it has all capabilities there
    with stand_in() as vm:
        assert_refused(nobody, service, vm, "runs as uid 0")


def test_a_client_in_another_user_namespace(service: ServiceProcess, nobody: Puppet) -> None:
    nobody.call("unshare", USER_NAMESPACE)
    with stand_in(NOBODY) as vm:
        assert_refused(nobody, service, vm, "another user namespace")


def test_a_process_in_another_user_namespace(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY) as vm:
        vm.call("unshare", USER_NAMESPACE)
        assert RULE in nobody.refusal(service.path, pid=vm.pid)


def test_a_client_in_another_pid_namespace(service: ServiceProcess) -> None:
    """The number would be another process there."""
    with stand_in() as vm, puppet() as client:
        client.call("unshare", PID_NAMESPACE)
        client.call("into_a_child")
        client.call("connect", service.path)
        request = {"execute": "attach", "arguments": {"pid": vm.pid}}
        error = client.call("ask", request)["error"]
        assert error["class"] == "SourceError"
        assert "another process: it is in another pid namespace" in error["desc"]
        assert len(refusals(service)) == 1


def asked_by(client: Puppet, service: ServiceProcess, how: str, pid: int) -> str:
    """The client connects, and something else of it asks."""
    client.call("connect", service.path)
    told = refusal_in(client.call(how, {"execute": "attach", "arguments": {"pid": pid}}))
    assert told in refusals(service)[0]
    return told


def test_a_connection_that_was_passed_on(service: ServiceProcess, nobody: Puppet) -> None:
    with stand_in(NOBODY) as vm:
        told = asked_by(nobody, service, "ask_by_child", vm.pid)
        assert f"but process {nobody.pid} connected" in told


def test_a_client_that_executes_another_program(service: ServiceProcess, nobody: Puppet) -> None:
    """It might be one with set-uid, whose output somebody else has chosen."""
    with stand_in(NOBODY) as vm:
        told = asked_by(nobody, service, "ask_by_another_program", vm.pid)
        assert "executed another program" in told


def test_a_client_whose_number_is_another_s_by_now(service: ServiceProcess) -> None:
    with stand_in() as vm, puppet() as client:
        client.call("connect", service.path)
        request = {"execute": "attach", "arguments": {"pid": vm.pid}}
        client.start("ask_by_a_namesake", request)
        client.wait()  # its number is free now
        assert f"process {client.pid} has ended" in refusal_in(client.answer())


def test_a_client_that_changes_its_ids(service: ServiceProcess) -> None:
    with stand_in() as vm, puppet() as client:
        client.call("connect", service.path)
        client.call("become", NOBODY, NOBODY)
        answer = client.call("ask", {"execute": "attach", "arguments": {"pid": vm.pid}})
        assert "not those that it connected with" in refusal_in(answer)


def test_a_client_of_several_ids(service: ServiceProcess) -> None:
    """As a program with set-uid is."""
    with stand_in() as vm, puppet() as client:
        client.call("become_in_part", NOBODY, 0, 0)
        assert "several user ids" in client.refusal(service.path, pid=vm.pid)


def test_processes_that_are_not_there(service: ServiceProcess, nobody: Puppet) -> None:
    with puppet(NOBODY) as gone:
        pass
    nobody.call("connect", service.path)
    request = {"execute": "attach", "arguments": {"pid": gone.pid}}
    assert nobody.call("ask", request)["error"]["class"] == "SourceError"


def test_nothing_is_left(service: ServiceProcess, nobody: Puppet) -> None:
    """Of a hundred refusals: neither descriptors nor processes of the service."""
    with stand_in() as vm:
        nobody.call("connect", service.path)
        request = {"execute": "attach", "arguments": {"pid": vm.pid}}
        nobody.call("ask", request)
        before = len(os.listdir(f"/proc/{service.pid}/fd")), len(living(service.children()))
        for _ in range(100):
            nobody.call("ask", request)
        after = len(os.listdir(f"/proc/{service.pid}/fd")), len(living(service.children()))
        assert after == before


def test_as_many_vms_as_a_client_may_have(service: ServiceProcess, nobody: Puppet) -> None:
    with puppet(NOBODY) as vm:
        nobody.call("connect", service.path)
        for number in range(VMS_PER_CLIENT + 1):
            vm.call("share_ram", RAM_BYTES, f"ram{number}")
            arguments = {"pid": vm.pid, "name": f"ram{number}"}
            answer = nobody.call("ask", {"execute": "attach", "arguments": arguments})
            if number < VMS_PER_CLIENT:
                assert "return" in answer
        assert answer["error"]["class"] == "LimitError"
        assert f"{VMS_PER_CLIENT} VMs are attached" in answer["error"]["desc"]


@pytest.mark.parametrize("uid", [NOBODY, OTHER])
def test_private_memory(service: ServiceProcess, nobody: Puppet, uid: int) -> None:
    with puppet(uid) as vm:
        vm.call("private_ram", 2 * RAM_BYTES)
        if uid != NOBODY:
            assert_refused(nobody, service, vm, f"runs as uid {OTHER}")
            return
        size = 2 * RAM_BYTES
        (ram,) = [each for each in explain(f"pid:{vm.pid}") if each.size == size]
        addresses = f"@{ram.start:x}-{ram.end:x}"
        (block,) = attach(nobody, service.path, pid=vm.pid, name=addresses)["blocks"]
        assert block["size"] == size
        checked = nobody.call("ask", {"execute": "check", "arguments": {"block": 0}})
        counts = checked["return"]["blocks"][0]["counts"]
        assert (counts["zero"], counts["normal"]) == (RAM_BYTES // 4096, RAM_BYTES // 4096)
        vm.call("dumpable", 0)  # what is attached stays so, as an open file does
        checked = nobody.call("ask", {"execute": "check", "arguments": {"block": 0}})
        assert checked["return"]["blocks"][0]["counts"]["undecided"] == 0


# Python may lie where nobody may look, so that all is loaded first.
SCANS = """
import os, sys
from pagecheck import Client
import pagecheck.service.remote_report
from pagecheck.shm import mounts
uid = int(sys.argv[3])
os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
with Client(sys.argv[1]) as client:
    try:
        report = client.scan(sys.argv[2])
    except Exception as error:
        print(type(error).__name__, error)
    else:
        print([block.block.name for block in report.blocks], report.total.normal)
"""


def scanned(path: str, source: str, uid: int) -> str:
    """What the client library tells a user who scans by the service."""
    done = subprocess.run(
        [sys.executable, "-c", SCANS, path, source, str(uid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def test_the_library_of_another_user(service: ServiceProcess) -> None:
    with stand_in(NOBODY) as vm:
        for source in (f"pid:{vm.pid}", f"pid:{vm.pid}:{RAM_NAME}"):
            told = scanned(service.path, source, NOBODY)
            assert told == f"['{RAM_NAME}'] {RAM_BYTES // 8192}\n"
        told = scanned(service.path, f"pid:{vm.pid}", OTHER)
        assert told.startswith(f"AccessError pid:{vm.pid}: process {vm.pid} of user {NOBODY}")
        assert scanned(service.path, f"pid:{vm.pid}x", OTHER).startswith("AccessError")


def test_with_the_capabilities_of_the_systemd_unit(
    start_service: StartService, short_folder: Path
) -> None:
    unit = (Path(__file__).parents[2] / "docs" / "systemd" / "pagecheck.service").read_text()
    lines = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    names = " ".join(lines).replace("CapabilityBoundingSet=", "").lower().split()
    kept = ",".join(f"+{name.removeprefix('cap_')}" for name in names)
    path = str(short_folder / "confined")
    command = ["setpriv", "--no-new-privs", f"--bounding-set=-all,{kept}"]
    command += [PAGECHECK, "serve", "--socket", path]
    service = start_service("--allow-uid", NOBODY, path=path, command=command)
    with puppet(NOBODY) as client, puppet(NOBODY) as vm, stand_in(OTHER) as other:
        vm.call("share_ram", RAM_BYTES, RAM_NAME)
        vm.call("private_ram", 2 * RAM_BYTES)
        found = attach(client, path, pid=vm.pid)
        assert found["blocks"]
        assert found["unreadable"] == []
        checked = client.call("ask", {"execute": "check", "arguments": {"block": 0}})
        assert checked["return"]["blocks"][0]["counts"]["undecided"] == 0
        with puppet(NOBODY) as another:
            told = another.refusal(path, pid=other.pid)
            assert f"runs as uid {OTHER}" in told
        request = {"execute": "attach", "arguments": {"qmp": service.path}}
        error = client.call("ask", request)["error"]
        assert error["class"] != "AccessError"  # the service may connect there as NOBODY
    with puppet() as root, stand_in(OTHER) as vm:
        assert attach(root, path, pid=vm.pid)["blocks"]
