"""What a check by command answers, and what it tells on the way, before either is sent."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pagecheck.coordinator import Coordinator
from pagecheck.service.client_process import ClientProcess
from pagecheck.service.commands import Commands
from pagecheck.service.limits import Limits, Peer
from pagecheck.service.policy import NO_POLICY
from pagecheck.service.resources import ClientResources, HeldBlock
from pagecheck.service.results import Check
from pagecheck.service.rights import Rights
from pagecheck.service.service import Service
from pagecheck.shm.ram import adopt
from pagecheck.vmm.ram import PauseResult, VmRam
from pagecheck.vmm.vm import Vm
from tests.support.known_ram import KnownRam

pytestmark = pytest.mark.usefixtures("clean")


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    """A service that listens nowhere."""
    with Coordinator(1, "cpu") as coordinator:
        assert coordinator.settings is not None
        service = Service(coordinator, coordinator.settings, Limits())
        yield service
        service.close()


def test_progress_is_of_all_blocks() -> None:
    """Also where the first is smaller than what is first told of the second."""
    rams = [KnownRam(pages, kinds=["random"]) for pages in (10, 100)]
    size = sum(ram.size for ram in rams)
    told: list[Any] = []
    with serving() as service:
        resources = ClientResources(service.coordinator, service.counters)
        peer = Peer(os.getpid(), os.getuid(), True)
        ours, theirs = socket.socketpair()
        process = ClientProcess(theirs)
        rights = Rights(peer, process, NO_POLICY)
        commands = Commands(service, peer, rights, resources, told.append)
        for ram in rams:
            commands.run({"execute": "attach", "arguments": {"name": f"{ram.pages}"}}, [ram.fd])
        asked = {"blocks": [0, 1], "progress": True, "max_rate": 2 * size}
        reply = commands.run({"execute": "check", "arguments": asked}, [])
        os.close(reply.fds[0])
        resources.release_all()
        for each in (process, ours, theirs):
            each.close()
    assert told[-1] == {"done": size, "bytes": size}
    for ram in rams:
        ram.close()


class Monitor:
    """Stands for the connection to a VMM whose VM's pause ended too early."""

    connected_as = 0
    place = None
    why_moved = ""

    def pause(self, max_seconds: float) -> None:
        """Does nothing."""

    def resume(self, *, leave_stopped: bool = False) -> PauseResult:
        return PauseResult(3 * 10**9, False, expired=True, stopped_by_us=not leave_stopped)


def test_why_a_pause_ended_is_answered_and_counted() -> None:
    ram = KnownRam(16, kinds=["random"])
    monitor: Any = Monitor()
    vm = Vm("qmp:x", VmRam([], [], []), monitor)
    with serving() as service:
        vm.on_pause = service.counters.paused
        block = service.coordinator.attach(adopt(ram.fd, "ram", "ram"))
        check = Check(
            [HeldBlock(0, block, (), vm)],
            ranges=None,
            bitmap=None,
            kind="full",
            max_rate=None,
            deadline=None,
            pause=True,
            max_pause=3.0,
            leave_stopped=False,
            progress=lambda _done, _of: None,
        )
        members, (bitmaps,) = check.run(service)
        os.close(bitmaps)
        assert service.counters.number("pauses") == 1
        assert service.counters.number("pause_seconds") == 3.0
    why = "the VM was paused for 3 s, the most that was allowed, and ran on before the end"
    assert members["answer"] == "live"
    assert members["why_live"] == why
    assert members["notes"] == [f"{why}: the answer is a hint"]
    assert members["pause"]["expired"]
    ram.close()
