"""The limits of a service, and who may use it."""

from __future__ import annotations

import os
import socket
from typing import Final, NamedTuple

from pagecheck.errors import AccessError, LimitError, UsageError
from pagecheck.native import _native
from pagecheck.plan import PAUSE_MAX_S, require_seconds
from pagecheck.service.connecting import credentials, groups
from pagecheck.service.policy import NO_POLICY, Policy

BLOCKS_PER_CLIENT: Final = 32
CLIENTS_MAX: Final = _native.BLOCKS_MAX // BLOCKS_PER_CLIENT  # so that each has its blocks
REGIONS_PER_BLOCK: Final = 1024
VMS_PER_CLIENT: Final = 8  # of one without the service's rights: each may cost a watchdog process
LEFT_BEHIND_MAX: Final = 64  # processes that outlive their client: watchdogs whose VM stays stopped
RANGES_PER_CHECK: Final = 8192
PIECES_PER_CHECK: Final = 65536  # what ranges of guest-physical addresses come to
NAME_CHARS: Final = 128
NUMBER_MAX: Final = (1 << 32) - 1  # of blocks and channels, which are not used again
SLOTS_MAX: Final = 256
SPIN_US_MAX: Final = 1000
RESERVED_CLIENTS: Final = 2  # for root and our own user, where others may connect
# The kernel doubles it; an answer with its bookkeeping takes 1 KiB or more, so that about a dozen,
# with the descriptors that they hold on their way, wait for a client that does not read.
SEND_BUFFER_BYTES: Final = 1 << 13
MEMORY_LEAST: Final = 1 << 16
SEND_NS: Final = 5_000_000_000  # a client that has not read a reply by then is disconnected


class Limits(NamedTuple):
    """Limits that the user of `pagecheck serve` may set.

    Attributes:
        clients: connections at a time, 1 to 32.
        channels: direct channels of one client at a time; each is a worker process.
        pause_seconds: the longest that a client may have a VM stopped for one check.
        block_bytes: the largest block; a block costs 3 bits of our memory per page when it is
            checked, however sparse it is.
        memory_bytes: the answers that one client keeps.
        memory_all_bytes: the answers that all clients keep, also those that have left.
    """

    clients: int = CLIENTS_MAX
    channels: int = 16
    pause_seconds: float = 5.0
    block_bytes: int = 1 << 40
    memory_bytes: int = 1 << 28
    memory_all_bytes: int = 1 << 32

    def check(self) -> Limits:
        """Raises UsageError where a number is out of range."""
        if not 1 <= self.clients <= CLIENTS_MAX:
            raise UsageError(f"{self.clients} clients: must be 1 to {CLIENTS_MAX}")
        if not 0 <= self.channels <= 256:
            raise UsageError(f"{self.channels} channels per client: must be 0 to 256")
        require_seconds("max pause", self.pause_seconds, PAUSE_MAX_S)
        if self.block_bytes < 4096:
            raise UsageError(f"max block size {self.block_bytes}: must be 4096 bytes or more")
        if self.memory_bytes < MEMORY_LEAST:
            raise UsageError(f"max memory {self.memory_bytes}: must be {MEMORY_LEAST} or more")
        return self

    def require_pause(self, seconds: float | None) -> None:
        """Raises LimitError where a VM would be stopped for longer than it may be."""
        if seconds is not None and seconds > self.pause_seconds:
            raise LimitError(f"max_pause: this service allows {self.pause_seconds} s")


def default_block_bytes() -> int:
    """Four times the memory of this host."""
    return 4 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class Peer(NamedTuple):
    """Who is at the other end, as the kernel says.

    Attributes:
        trusted: root, or the user that the service runs as: may also name paths, processes and
            shared memory, which are then opened with the service's rights.
    """

    pid: int
    uid: int
    trusted: bool


def admit(
    connected: socket.socket, allowed_uids: frozenset[int], policy: Policy = NO_POLICY
) -> Peer:
    """Checks who connected.

    Args:
        policy: whom it names may connect, too.

    Raises:
        AccessError: this user may not.
    """
    pid, uid, gid = credentials(connected)
    trusted = uid in (0, os.geteuid())
    allowed = trusted or uid in allowed_uids
    if not allowed and not policy.names(uid, (gid, *groups(connected))):
        raise AccessError(f"user {uid} may not use this service; start it with --allow-uid {uid}")
    return Peer(pid, uid, trusted)
