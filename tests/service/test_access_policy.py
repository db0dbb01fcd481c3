"""What a policy file adds to the rights of clients, and that it adds nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.access import attach, refusals
from tests.support.command import assert_fails, pagecheck
from tests.support.puppets import USER_NAMESPACE, puppet, stand_in
from tests.support.service import ServiceProcess, StartService
from tests.support.users import NOBODY

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("needs_root")]

OTHER = NOBODY - 1
THIRD = NOBODY - 2
GROUP = 4711


@pytest.fixture
def service(start_service: StartService, short_folder: Path) -> ServiceProcess:
    """Members of GROUP may look at the VMs of OTHER, and of root."""
    path = short_folder / "policy.toml"
    path.write_text(f"[[allow]]\ngroups = [{GROUP}]\nvms_of = [{OTHER}, 0]\n")
    return start_service("--policy", path)


@pytest.mark.parametrize("uid", [OTHER, 0])
def test_a_member_may_look(service: ServiceProcess, uid: int) -> None:
    with stand_in(uid) as vm, puppet(NOBODY, groups=(GROUP,)) as client:
        assert attach(client, service.path, pid=vm.pid)["blocks"]
        checked = client.call("ask", {"execute": "check", "arguments": {"block": 0}})
        assert checked["return"]["blocks"][0]["counts"]["undecided"] == 0
        assert refusals(service) == []


def test_by_the_main_group(service: ServiceProcess) -> None:
    with stand_in(OTHER) as vm, puppet(NOBODY, gid=GROUP) as client:
        assert attach(client, service.path, pid=vm.pid)["blocks"]


def test_nobody_else_is_let_in(service: ServiceProcess) -> None:
    with puppet(NOBODY) as client:
        error = client.call("connect", service.path)["error"]
        assert error["class"] == "AccessError"


def test_the_vms_of_nobody_else(service: ServiceProcess) -> None:
    with stand_in(THIRD) as vm, puppet(NOBODY, groups=(GROUP,)) as client:
        assert f"runs as uid {THIRD}" in client.refusal(service.path, pid=vm.pid)


def test_no_process_that_hides(service: ServiceProcess) -> None:
    with stand_in(OTHER) as vm, puppet(NOBODY, groups=(GROUP,)) as client:
        vm.call("dumpable", 0)
        assert "may not be read" in client.refusal(service.path, pid=vm.pid)


def test_no_process_of_several_users(service: ServiceProcess) -> None:
    with stand_in() as vm, puppet(NOBODY, groups=(GROUP,)) as client:
        vm.call("become_in_part", OTHER, OTHER, 0)
        vm.call("dumpable", 1)
        assert "may not be read" in client.refusal(service.path, pid=vm.pid)


def test_no_process_in_another_user_namespace(service: ServiceProcess) -> None:
    with stand_in(OTHER) as vm, puppet(NOBODY, groups=(GROUP,)) as client:
        vm.call("unshare", USER_NAMESPACE)
        assert "may not be read" in client.refusal(service.path, pid=vm.pid)


def test_groups_that_were_given_up(service: ServiceProcess) -> None:
    """The groups are those of the process that connected, and is still a member."""
    with stand_in(OTHER) as vm, puppet() as client:
        client.call("connect", service.path)
        client.call("become", NOBODY, NOBODY, [GROUP])
        answer = client.call("ask", {"execute": "attach", "arguments": {"pid": vm.pid}})
        assert "not those that it connected with" in answer["error"]["desc"]


def test_a_broken_policy(short_folder: Path) -> None:
    path = short_folder / "policy.toml"
    path.write_text("[[allow]]\nusers = ['no-such-user']\nvms_of = [0]\n")
    ran = pagecheck("serve", "--socket", short_folder / "socket", "--policy", path)
    assert_fails(ran, 2, "[[allow]] 1: users: there is no 'no-such-user' here")
    assert not (short_folder / "socket").exists()


def test_the_example_of_the_documentation(start_service: StartService, tmp_path: Path) -> None:
    """It is a policy; its names are those of this host here."""
    docs = Path(__file__).parents[2] / "docs" / "service.md"
    (example,) = (each.split("```")[0] for each in docs.read_text().split("```toml\n")[1:])
    for name, number in (("vm-admins", GROUP), ("alice", NOBODY), ("libvirt-qemu", OTHER)):
        assert f'"{name}"' in example
        example = example.replace(f'"{name}"', str(number))
    example = example.replace('"root"', "0")
    path = tmp_path / "policy.toml"
    path.write_text(example)
    service = start_service("--policy", path)
    with stand_in(OTHER) as vm:
        for who in ({"uid": NOBODY}, {"uid": THIRD, "groups": (GROUP,)}):
            with puppet(**who) as client:
                assert attach(client, service.path, pid=vm.pid)["blocks"]
