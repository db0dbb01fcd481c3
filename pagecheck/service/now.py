"""What the service does at this moment, for the metrics and the page: looked at, never counted.

Danger: who only looks holds the work up. Decision: nothing here waits for a client, a VM or a
worker, or takes a lock that is held while something is waited for; what is being closed is left
out.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from pagecheck import clock
from pagecheck.coordinator.states import QUEUE_STATES, QueueNow, queue_now
from pagecheck.shm.layout import QUEUE_STATE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.service.service import Service
    from pagecheck.vmm import Vm


class Hold(NamedTuple):
    """A VM that is stopped by the service.

    Attributes:
        client: the number of the client for which it is.
        text: the VM as it was named.
        seconds: for how long it has been stopped.
        most: seconds; then it is continued, whatever happens.
    """

    client: int
    text: str
    seconds: float
    most: float


class Channel(NamedTuple):
    """A worker and its ring.

    Attributes:
        client: the number of the client whose direct channel it is; 0: it is for commands.
        number: of the worker for commands, or the client's number for the channel.
        state: as of a `ChannelState`; of a direct channel `open` or `gone`.
        queue: its work queue as users name it, or None.
        queue_now: what that does; None where there is none.
        words: of `shm.layout.STATS`.
    """

    client: int
    number: int
    state: str
    engine: str
    queue: str | None
    queue_now: QueueNow | None
    pid: int
    replaced: int
    words: tuple[int, ...]


def holds(service: Service) -> list[Hold]:
    """The VMs that are stopped, the longest first."""
    now = clock.now_s()
    found = []
    for client in service.clients.all():
        vms: dict[int, Vm] = {}
        for block in list(client.resources.blocks.values()):
            if block.vm is not None:
                vms[id(block.vm)] = block.vm
        for vm in vms.values():
            if (held := vm.held) is not None:
                since, most = held
                found.append(Hold(client.number, vm.text, max(0.0, now - since), most))
    return sorted(found, key=lambda hold: -hold.seconds)


def channels(service: Service) -> list[Channel]:
    """The workers for commands, then the direct channels of each client."""
    coordinator = service.coordinator
    found = []
    for now, report in zip(coordinator.states(), coordinator.statistics(), strict=True):
        queue = None if report.queue is None else queue_now(now.queue)
        what = (now.state, report.engine, report.queue, queue, now.pid, now.replaced)
        found.append(Channel(0, report.channel, *what, report.words))
    return [*found, *_direct(service)]


def _direct(service: Service) -> Iterator[Channel]:
    for client in service.clients.all():
        for each in list(client.resources.channels.values()):
            with contextlib.suppress(OSError, ValueError):  # it is being closed
                words = each.statistics()
                queue = None if each.queue is None else queue_now(words[QUEUE_STATE])
                state = "gone" if each.is_gone else "open"
                what = (state, each.engine, each.queue, queue, each.pid, each.replaced)
                yield Channel(client.number, each.number, *what, tuple(words))


def queues(found: list[Channel]) -> dict[str, int]:
    """How many of the channels have a work queue in each state."""
    states = [each.queue_now.state for each in found if each.queue_now and each.state != "gone"]
    return {state: states.count(state) for state in QUEUE_STATES}
