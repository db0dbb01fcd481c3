"""The commands of clients: arguments checked, command run, reply made.

A command runs in its client's own thread. It may take long; it ends early when the client
is gone or the service ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pagecheck._version import __version__
from pagecheck.errors import LimitError, UsageError
from pagecheck.native import _native
from pagecheck.service.arguments import Arguments, page_ranges, require_fds
from pagecheck.service.attaching import Attaching, describe
from pagecheck.service.limits import (
    BLOCKS_PER_CLIENT,
    NUMBER_MAX,
    SLOTS_MAX,
    SPIN_US_MAX,
    Peer,
)
from pagecheck.service.protocol import (
    CAPABILITIES,
    FDS_PER_LINE,
    LAYOUTS,
    LINE_BYTES,
    PROTOCOL,
    common_layout,
    no_common_layout,
)
from pagecheck.service.punches import Punches
from pagecheck.service.resources import ClientResources
from pagecheck.service.results import Check
from pagecheck.service.rights import Rights, require_may_pause
from pagecheck.service.saves import Saves

if TYPE_CHECKING:
    from pagecheck.service.service import Service

FIRST_LAYOUT: Final = 3  # before layouts could be named in a request
LAYOUTS_PER_REQUEST: Final = 32


class Reply:
    """What a command answers: the members of `return`, and descriptors that go with them and are
    closed here once they are sent."""

    def __init__(self, members: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        self.members = members
        self.fds = fds


class Commands:
    """The commands of one client."""

    def __init__(
        self,
        service: Service,
        peer: Peer,
        rights: Rights,
        resources: ClientResources,
        on_progress: Callable[[dict[str, int] | None], None],
    ) -> None:
        """Nothing is done yet.

        Args:
            rights: what the client may have done to running VMs.
            on_progress: called about ten times a second by commands that take long, with what to
                report to the client, or None; raises where the client is gone.
        """
        self._service = service
        self._peer = peer
        self._rights = rights
        self._attaching = Attaching(service, peer, rights, resources)
        self._saves = Saves(service, peer, rights, resources)
        self._punches = Punches(service, peer, rights, resources)
        self._sender = 0
        self._resources = resources
        self._on_progress = on_progress
        self._known: dict[str, Callable[[Arguments, list[int]], Reply]] = {
            "attach": self._attach,
            "check": self._check,
            "close-channel": self._close_channel,
            "detach": self._detach,
            "open-channel": self._open_channel,
            "punch": self._punch,
            "query-blocks": self._query_blocks,
            "query-stats": self._query_stats,
            "save": self._save,
        }

    def greeting(self) -> dict[str, Any]:
        """What is sent to a client first."""
        limits = self._service.limits
        return {
            "pagecheck": {
                "version": __version__,
                "protocol": PROTOCOL,
                "layout": max(LAYOUTS),
                "layouts": list(LAYOUTS),
                "capabilities": list(CAPABILITIES),
                "limits": {
                    "blocks": BLOCKS_PER_CLIENT,
                    "channels": limits.channels,
                    "clients": limits.clients,
                    "descriptors": FDS_PER_LINE,
                    "line_bytes": LINE_BYTES,
                    "memory_bytes": limits.memory_bytes,
                    "pause_seconds": limits.pause_seconds,
                    "slots": SLOTS_MAX,
                    "slot_pages": _native.SLOT_PAGES_MAX,
                    "spin_us": SPIN_US_MAX,
                },
            }
        }

    def run(self, message: dict[str, Any], fds: list[int], sender: int = 0) -> Reply:
        """Runs one request.

        Args:
            fds: what came with it; stays the caller's.
            sender: the process that sent it, as the kernel says; 0 where that is not known.

        Raises:
            PagecheckError: it cannot be done; the subclass says whose fault that is.
        """
        unknown = message.keys() - {"execute", "arguments", "id"}
        if unknown or "execute" not in message:
            raise UsageError("a request has the members 'execute', 'arguments' and 'id'")
        command = message["execute"]
        if not isinstance(command, str) or command not in self._known:
            known = ", ".join(self._known)
            raise UsageError(f"execute: {str(command)[:40]!r} is not one of {known}")
        arguments = Arguments(message.get("arguments", {}))
        self._sender = sender
        with self._rights.logged():
            return self._known[command](arguments, fds)

    def _attach(self, arguments: Arguments, fds: list[int]) -> Reply:
        return Reply(self._attaching.attach(arguments, fds, self._sender))

    def _detach(self, arguments: Arguments, fds: list[int]) -> Reply:
        number = arguments.integer("block", 0, NUMBER_MAX)
        arguments.done()
        require_fds("detach", fds, 0)
        self._resources.remove(number)
        return Reply({})

    def _check(self, arguments: Arguments, fds: list[int]) -> Reply:
        numbers = arguments.block_numbers("blocks", BLOCKS_PER_CLIENT)
        if numbers is None:
            numbers = [arguments.integer("block", 0, NUMBER_MAX)]
        held = [self._resources.block(number) for number in numbers]
        first = held[0].block.ram
        ranges = page_ranges(arguments, first.page_size, first.start, held[0].regions)
        with_bitmap = arguments.flag("bitmap")
        check = Check(
            held,
            ranges=ranges,
            bitmap=fds[0] if with_bitmap and len(fds) == 1 else None,
            kind=arguments.choice("kind", "full", "diff"),
            max_rate=arguments.integer("max_rate", 1, 1 << 62, None),
            deadline=arguments.number("deadline", None),
            pause=arguments.flag("pause"),
            max_pause=arguments.number("max_pause", self._service.limits.pause_seconds),
            leave_stopped=arguments.flag("leave_stopped"),
            client=self._resources.client,
            progress=self._progress(reported=arguments.flag("progress")),
        )
        arguments.done()
        require_fds("check", fds, 1 if with_bitmap else 0)
        if check.pause:
            require_may_pause(held)
        self._service.limits.require_pause(check.max_pause)
        return Reply(*check.run(self._service))

    def _save(self, arguments: Arguments, fds: list[int]) -> Reply:
        progress = self._progress(reported=arguments.flag("progress"))
        return Reply(*self._saves.save(arguments, fds, self._sender, progress))

    def _punch(self, arguments: Arguments, fds: list[int]) -> Reply:
        progress = self._progress(reported=arguments.flag("progress"))
        return Reply(self._punches.punch(arguments, fds, self._sender, progress))

    def _progress(self, *, reported: bool) -> Callable[[int, int], None]:
        """What a command that takes long calls."""

        def on_progress(done: int, total: int) -> None:
            self._on_progress({"done": done, "bytes": total} if reported else None)

        return on_progress

    def _open_channel(self, arguments: Arguments, fds: list[int]) -> Reply:
        slots = arguments.integer("slots", 1, SLOTS_MAX, 16)
        slot_pages = arguments.integer("slot_pages", 1, _native.SLOT_PAGES_MAX, 128)
        spin_us = arguments.integer("spin_us", 0, SPIN_US_MAX, 0)
        layout = _layout(arguments)
        arguments.done()
        require_fds("open-channel", fds, 0)
        most = self._service.limits.channels
        if len(self._resources.channels) >= most:
            raise LimitError(f"{most} channels are open; close one first")
        slot_pages = -(-slot_pages // 64) * 64
        blocks = {number: held.block for number, held in self._resources.blocks.items()}
        number = self._resources.next_channel()
        channel = self._service.new_channel(number, slots, slot_pages, spin_us, blocks)
        try:
            ring = os.dup(channel.fd)
        except BaseException:
            channel.close()
            raise
        self._resources.open(channel)
        members = {
            "channel": channel.number,
            "layout": layout,
            "slots": slots,
            "slot_pages": slot_pages,
            "segment_bytes": channel.size,
            "engine": channel.engine,
            "kernel": channel.kernel,
            "worker": channel.pid,
        }
        return Reply(members, (ring,))

    def _close_channel(self, arguments: Arguments, fds: list[int]) -> Reply:
        number = arguments.integer("channel", 0, NUMBER_MAX)
        arguments.done()
        require_fds("close-channel", fds, 0)
        self._resources.close_channel(number)
        return Reply({})

    def _query_blocks(self, arguments: Arguments, fds: list[int]) -> Reply:
        arguments.done()
        require_fds("query-blocks", fds, 0)
        return Reply({"blocks": [describe(held) for held in self._resources.blocks.values()]})

    def _query_stats(self, arguments: Arguments, fds: list[int]) -> Reply:
        arguments.done()
        require_fds("query-stats", fds, 0)
        return Reply(self._service.describe(everyone=self._peer.trusted))


def _layout(arguments: Arguments) -> int:
    """The layout of a new channel: the highest that both sides support. A client that names
    none knows only the first one."""
    theirs = arguments.integers("layouts", LAYOUTS_PER_REQUEST) or [FIRST_LAYOUT]
    layout = common_layout(LAYOUTS, theirs)
    if layout is None:
        raise UsageError(f"layouts: {no_common_layout(__version__, LAYOUTS, 'you', theirs)}")
    return layout
