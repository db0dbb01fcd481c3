"""What the access rule has to notice between two moments, and where it cannot: everything in doubt
is refused. Looked at without a service, so that each moment can be chosen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pagecheck.errors import AccessError, SourceError
from pagecheck.service import client_process
from pagecheck.service.client_process import ClientProcess
from pagecheck.service.connecting import GROUPS_MAX
from pagecheck.service.policy import NO_POLICY
from pagecheck.service.rights import Admission
from pagecheck.vmm.find.process import open_process
from pagecheck.vmm.process.credentials import Credentials, credentials_of
from pagecheck.vmm.process.memory import ProcessMemory
from tests.support.leaks import leaks
from tests.support.puppets import Puppet, puppet, stand_in
from tests.support.service import StartService
from tests.support.users import NOBODY

pytestmark = pytest.mark.usefixtures("needs_root")


@pytest.fixture
def who() -> Iterator[Credentials]:
    """Those of user NOBODY."""
    with puppet(NOBODY) as one:
        yield credentials_of(one.pid)


@pytest.fixture
def vm() -> Iterator[Puppet]:
    with stand_in(NOBODY) as one:
        yield one


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_process_that_stays_what_it_is(who: Credentials, vm: Puppet) -> None:
    with Admission("pid:1", who, NO_POLICY) as admission:
        assert not admission.is_full
        with ProcessMemory(vm.pid, admission) as process:
            process.verify()


def test_a_process_that_executes_another_program(who: Credentials, vm: Puppet) -> None:
    """It is the same process of the same user with the same number; its memory is another one."""
    with (
        Admission("pid:1", who, NO_POLICY) as admission,
        ProcessMemory(vm.pid, admission) as process,
    ):
        assert vm.call("execute", "/bin/sh", "-c", "echo 1; read line") == 1
        with pytest.raises(AccessError, match="executed another program"):
            process.verify()


def test_an_error_tells_nothing_of_another_program(who: Credentials, vm: Puppet) -> None:
    """What is not guest RAM is named in a message, with addresses."""
    admission = Admission("pid:1", who, NO_POLICY)

    def admit(process: ProcessMemory) -> None:
        admission(process)
        assert vm.call("execute", "/bin/sh", "-c", "echo 1; read line") == 1

    with pytest.raises(AccessError, match="executed another program"), admission:
        open_process(f"pid:{vm.pid}", admit=admit)


def test_an_error_of_the_same_program(who: Credentials) -> None:
    with (
        puppet(NOBODY) as other,
        pytest.raises(SourceError, match="no RAM named 'x'"),
        Admission("pid:1", who, NO_POLICY) as admission,
    ):
        open_process(f"pid:{other.pid}:x", admit=admission)


def test_a_process_that_hides_meanwhile(who: Credentials, vm: Puppet) -> None:
    with (
        Admission("pid:1", who, NO_POLICY) as admission,
        ProcessMemory(vm.pid, admission) as process,
    ):
        vm.call("dumpable", 0)
        with pytest.raises(AccessError, match="not dumpable"):
            process.verify()


def test_nothing_is_looked_at_before(who: Credentials) -> None:
    with (
        stand_in() as vm,
        Admission("pid:1", who, NO_POLICY) as admission,
        pytest.raises(AccessError, match="runs as uid 0"),
    ):
        ProcessMemory(vm.pid, admission)


def test_a_client_that_sent_nothing_yet(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a kernel without SO_PEERPIDFD what is sent from now on is of the process that was opened;
    what was sent before may be of one that had its number."""
    ours, theirs = pair
    monkeypatch.setattr(client_process, "SO_PEERPIDFD", 9999)
    one = ClientProcess(theirs)
    assert one.known(os.getpid()).uids[0] == 0
    one.close()
    ours.send(b"{")
    one = ClientProcess(theirs)
    with pytest.raises(AccessError, match="before it was greeted"):
        one.known(os.getpid())
    one.close()


def test_a_client_that_sent_something(pair: tuple[socket.socket, socket.socket]) -> None:
    """The kernel itself says who connected."""
    ours, theirs = pair
    ours.send(b"{")
    one = ClientProcess(theirs)
    assert one.known(os.getpid()).uids[0] == 0
    for sender, why in ((0, "several processes"), (1, "sent by process 1")):
        with pytest.raises(AccessError, match=why):
            one.known(sender)
    one.close()
    with pytest.raises(AccessError, match="is closed"):
        one.known(os.getpid())


def test_a_client_of_many_groups(start_service: StartService) -> None:
    service = start_service("--allow-uid", NOBODY)
    groups = tuple(range(1000, 1001 + GROUPS_MAX))
    with stand_in(NOBODY) as vm, puppet(NOBODY, groups=groups) as client:
        assert f"more than {GROUPS_MAX} groups" in client.refusal(service.path, pid=vm.pid)
    with puppet(NOBODY - 1, groups=groups) as client:
        assert client.call("connect", service.path)["error"]["class"] == "AccessError"


def test_nothing_leaks(who: Credentials, pair: tuple[socket.socket, socket.socket]) -> None:
    _ours, theirs = pair
    with stand_in() as vm:

        def look() -> None:
            one = ClientProcess(theirs)
            one.known(os.getpid())
            one.close()
            with (
                Admission("pid:1", who, NO_POLICY) as admission,
                pytest.raises(AccessError),
            ):
                ProcessMemory(vm.pid, admission)

        assert leaks(look) == {}
