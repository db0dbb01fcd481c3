"""What one client has: blocks, VMs, direct channels. All of it is released when it leaves."""

from __future__ import annotations

import contextlib
import itertools
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck.errors import LimitError, PagecheckError, ResourceError, UsageError
from pagecheck.native import _native
from pagecheck.service.limits import BLOCKS_PER_CLIENT, NUMBER_MAX

if TYPE_CHECKING:
    from pagecheck.coordinator import Block, Coordinator
    from pagecheck.model import Region
    from pagecheck.service.counters import Counters
    from pagecheck.service.direct import DirectChannel
    from pagecheck.vmm import Vm

log = logging.getLogger(__name__)


class HeldBlock(NamedTuple):
    """One block of a client's.

    Attributes:
        number: the client's number for it, in commands and in the rings of its channels.
        vm: where it came from, if the service opened it as that of a running VM.
        may_pause: whether the client may stop that VM.
    """

    number: int
    block: Block
    regions: tuple[Region, ...]
    vm: Vm | None
    may_pause: bool = False


class ClientResources:
    """Only the client's own thread changes it; a thread of the service supervises its channels."""

    def __init__(self, coordinator: Coordinator, counters: Counters) -> None:
        self._coordinator = coordinator
        self._counters = counters
        self.client: Final = object()  # its answers count for it, also once it is gone
        self.blocks: dict[int, HeldBlock] = {}
        self.channels: dict[int, DirectChannel] = {}
        self._block_numbers = itertools.count()
        self._channel_numbers = itertools.count()

    def block(self, number: int) -> HeldBlock:
        """Raises UsageError where there is none of that number."""
        if number not in self.blocks:
            raise UsageError(f"block {number}: is not attached by this client")
        return self.blocks[number]

    def channel(self, number: int) -> DirectChannel:
        """Raises UsageError where there is none of that number."""
        if number not in self.channels:
            raise UsageError(f"channel {number}: is not open")
        return self.channels[number]

    def require_name(self, name: str) -> None:
        """Raises UsageError where the client has a block of that name, LimitError where it has too
        many."""
        if any(held.block.ram.name == name for held in self.blocks.values()):
            raise UsageError(f"block {name!r}: is attached already")
        if len(self.blocks) >= BLOCKS_PER_CLIENT:
            raise LimitError(f"{BLOCKS_PER_CLIENT} blocks are attached; detach one first")

    def vms(self) -> int:
        """How many VMs its blocks are of."""
        return len({id(held.vm) for held in self.blocks.values() if held.vm is not None})

    def _next_block(self) -> int:
        """A number that no block of this client had before, so that a late message never meets
        another block; workers keep blocks by its lowest bits."""
        taken = {number % _native.BLOCKS_MAX for number in self.blocks}
        free = (n for n in self._block_numbers if n % _native.BLOCKS_MAX not in taken)
        return _require_number(next(free), "blocks")

    def next_channel(self) -> int:
        """A number that no channel of this client had before.

        Raises:
            LimitError: none is left.
        """
        return _require_number(next(self._channel_numbers), "channels")

    def add(
        self,
        block: Block,
        regions: tuple[Region, ...],
        vm: Vm | None = None,
        *,
        may_pause: bool = False,
    ) -> HeldBlock:
        """Takes the block over and makes it known to the client's channels.

        Raises:
            ResourceError: a channel cannot attach it at this moment; it is detached again.
            LimitError: no number is left for it.
        """
        try:
            number = self._next_block()
        except LimitError:
            self._coordinator.detach(block)
            raise
        held = HeldBlock(number, block, regions, vm, may_pause)
        self.blocks[number] = held
        for channel in self._running():
            try:
                channel.attach(number, block)
            except ResourceError:
                self.remove(number)
                raise
            except PagecheckError:  # it is gone; the client learns that from the ring
                pass
        return held

    def remove(self, number: int) -> None:
        """Detaches a block everywhere; a VM is closed with its last block.

        Raises:
            UsageError: there is none of that number.
        """
        held = self.block(number)
        del self.blocks[number]
        for channel in self._running():
            with contextlib.suppress(PagecheckError):
                channel.detach(number)
        self._coordinator.detach(held.block)
        if held.vm is not None and all(each.vm is not held.vm for each in self.blocks.values()):
            held.vm.close()

    def _running(self) -> list[DirectChannel]:
        return [channel for channel in self.channels.values() if not channel.is_gone]

    def open(self, channel: DirectChannel) -> None:
        """Takes a channel over that knows every block."""
        self.channels[channel.number] = channel
        self._counters.opened(channel)

    def close_channel(self, number: int) -> None:
        """Ends a channel.

        Raises:
            UsageError: there is none of that number.
        """
        channel = self.channel(number)
        del self.channels[number]
        self._counters.closed(channel)
        channel.close()

    def release_all(self) -> None:
        """Closes every channel and detaches every block, whatever fails on the way."""
        for channel in list(self.channels.values()):
            channel.ask_to_end()
        steps = [(self.close_channel, number) for number in list(self.channels)]
        steps += [(self.remove, number) for number in list(self.blocks)]
        for step, number in steps:
            try:
                step(number)
            except Exception:
                log.exception("a client's end: %s %d", step.__name__, number)


def _require_number(number: int, what: str) -> int:
    if number > NUMBER_MAX:
        raise LimitError(f"no number is left for more {what} of this connection; connect again")
    return number
