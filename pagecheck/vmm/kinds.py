"""The VMMs that answer on a socket: what their sources begin with, and the words of messages."""

from __future__ import annotations

from socket import SOCK_SEQPACKET, SOCK_STREAM
from typing import Final, NamedTuple


class VmmKind(NamedTuple):
    """One of them.

    Attributes:
        prefix: of its sources, without the colon.
        vmm: its name.
        socket: the option that names the socket.
        start: how it is started so that it has one.
        busy: what to do where the socket accepts no connection.
        by_hand: how a user continues its VM.
        library: the distribution on PyPI that speaks with it.
        socket_type: of the socket, as in `socket.socket`.
    """

    prefix: str
    vmm: str
    socket: str
    start: str
    busy: str
    by_hand: str
    library: str = ""
    socket_type: int = SOCK_STREAM


QEMU: Final = VmmKind(
    prefix="qmp",
    vmm="QEMU",
    socket="QEMU's -qmp unix:PATH",
    start="start QEMU with -qmp unix:PATH,server=on,wait=off",
    busy="other clients use this QMP socket: end them, or give QEMU a second -qmp",
    by_hand="run cont on its monitor",
    library="qemu.qmp",
)
FIRECRACKER: Final = VmmKind(
    prefix="fc",
    vmm="Firecracker",
    socket="Firecracker's --api-sock PATH",
    start="start Firecracker with --api-sock PATH",
    busy="Firecracker is stopped, or other clients use its API: end them",
    by_hand='send PATCH /vm {"state": "Resumed"} to its API',
    library="h11",
)
CLOUD_HYPERVISOR: Final = VmmKind(
    prefix="ch",
    vmm="Cloud Hypervisor",
    socket="Cloud Hypervisor's --api-socket PATH",
    start="start Cloud Hypervisor with --api-socket PATH",
    busy="Cloud Hypervisor is stopped, or other clients use its API: end them",
    by_hand="run ch-remote --api-socket PATH resume",
    library="h11",
)
CROSVM: Final = VmmKind(
    prefix="crosvm",
    vmm="crosvm",
    socket="crosvm's --socket PATH",
    start="start crosvm with --socket PATH",
    busy="crosvm is stopped, or other clients use its socket: end them",
    by_hand="run crosvm resume --full SOCKET",
    socket_type=SOCK_SEQPACKET,
)
KINDS: Final = {each.prefix: each for each in (QEMU, FIRECRACKER, CLOUD_HYPERVISOR, CROSVM)}
