"""Whom the service lets look at a QEMU, and stop it: by its socket and by its process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import living
from tests.support.puppets import Puppet, puppet, refusal_in
from tests.support.service import ServiceProcess, StartService
from tests.support.service_fixtures import short_folder, start_service
from tests.support.users import NOBODY, needs_root
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend

__all__ = ["short_folder", "start_service"]

pytestmark = [pytest.mark.long, needs_root, pytest.mark.timeout(120)]

OTHER = NOBODY - 1
WATCHER = NOBODY - 2
STOPPER = NOBODY - 3
RAM = (*memfd_backend("64M", more=",share=on"), "-machine", "memory-backend=mem0")

Connected = Callable[[int], Puppet]


@pytest.fixture(scope="module")
def qemu() -> Iterator[BareQemu]:
    """A QEMU of user OTHER, whose socket that user alone may write to."""
    with bare_qemu(*RAM, uid=OTHER) as running:
        yield running


@pytest.fixture
def service(start_service: StartService, short_folder: Path) -> ServiceProcess:
    """WATCHER may look at the VMs of OTHER, and STOPPER may stop them, too."""
    path = short_folder / "policy.toml"
    path.write_text(
        f"[[allow]]\nusers = [{WATCHER}]\nvms_of = [{OTHER}]\n"
        f"[[allow]]\nusers = [{STOPPER}]\nvms_of = [{OTHER}]\npause = true\n"
    )
    return start_service("--policy", path, "--allow-uid", NOBODY, "--allow-uid", OTHER)


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[Connected]:
    """Gives a client of that user, connected."""
    with puppet() as one:

        def connected(uid: int) -> Puppet:
            if uid:
                one.call("become", uid, uid)
            one.call("connect", service.path)
            return one

        yield connected


def asked(client: Puppet, command: str, **arguments: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.call("ask", {"execute": command, "arguments": arguments})
    return answer


def check_paused(client: Puppet) -> dict[str, Any]:
    return asked(client, "check", block=0, pause=True)


@pytest.mark.parametrize("uid", [0, OTHER, STOPPER])
def test_who_may_look_and_stop(qemu: BareQemu, client: Connected, uid: int) -> None:
    one = client(uid)
    found = asked(one, "attach", qmp=str(qemu.socket))["return"]
    assert [block["name"] for block in found["blocks"]] == ["mem0"]
    checked = check_paused(one)["return"]
    assert checked["answer"] == "paused"
    assert checked["pause"]["stopped_by_us"]
    assert qemu.status() == "running"


def test_who_may_only_look(qemu: BareQemu, client: Connected, service: ServiceProcess) -> None:
    one = client(WATCHER)
    found = asked(one, "attach", qmp=str(qemu.socket))["return"]
    assert [block["name"] for block in found["blocks"]] == ["mem0"]
    assert asked(one, "check", block=0)["return"]["answer"] == "live"
    qemu.own_events()
    told = refusal_in(check_paused(one))
    assert "may be looked at, but not stopped" in told
    assert qemu.own_events() == []
    assert told in service.stderr_text()


def test_who_may_not_connect(qemu: BareQemu, client: Connected, service: ServiceProcess) -> None:
    """Although root, as whom the service runs, could."""
    before = living(service.children())
    told = refusal_in(asked(client(NOBODY), "attach", qmp=str(qemu.socket)))
    assert f"may not be connected to by user {NOBODY}" in told
    assert service.stderr_text().count(told) == 1
    assert living(service.children()) == before


def test_a_socket_in_a_folder_of_others(qemu: BareQemu, client: Connected) -> None:
    folder = qemu.socket.parent
    folder.chmod(0o700)
    try:
        told = refusal_in(asked(client(NOBODY), "attach", qmp=f"{folder}/nothing"))
        assert "may not be connected to" in told  # and not that it is not there
    finally:
        folder.chmod(0o755)


def test_a_socket_for_everybody(qemu: BareQemu, client: Connected) -> None:
    """The right to connect is not the right to read the process that listens."""
    qemu.socket.chmod(0o777)
    try:
        told = refusal_in(asked(client(NOBODY), "attach", qmp=str(qemu.socket)))
        assert f"runs as uid {OTHER}" in told
    finally:
        qemu.socket.chmod(0o755)


def test_by_its_process(qemu: BareQemu, client: Connected) -> None:
    one = client(WATCHER)
    assert asked(one, "attach", pid=qemu.pid)["return"]["blocks"]
    error = check_paused(one)["error"]
    assert error["class"] == "UsageError"  # a process cannot be stopped by its number


@pytest.mark.parametrize("uid", [OTHER, WATCHER, NOBODY])
def test_private_ram(client: Connected, uid: int) -> None:
    """That of a plain -m, which takes the right to read the process."""
    with bare_qemu(uid=OTHER, size="64M") as plain:
        plain.socket.chmod(0o777)
        one = client(uid)
        answer = asked(one, "attach", qmp=str(plain.socket))
        if uid == NOBODY:
            assert f"runs as uid {OTHER}" in refusal_in(answer)
            return
        (block,) = answer["return"]["blocks"]
        assert (block["name"], block["size"]) == ("pc.ram", 64 << 20)
        checked = check_paused(one)["return"]  # the socket is everybody's
        assert checked["answer"] == "paused"
        counts = checked["blocks"][0]["counts"]
        assert counts["zero"] > counts["normal"] > 0
        assert counts["undecided"] == 0
        channel = asked(one, "open-channel")["return"]
        assert asked(one, "close-channel", channel=channel["channel"])["return"] == {}
