"""Questions to a QEMU over its monitor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pagecheck.errors import SourceError
from pagecheck.vmm.answers import Answer

if TYPE_CHECKING:
    from pagecheck.vmm.hold.pause import QemuMonitor

# Source: hmp_gpa2hva() in QEMU's monitor/misc.c (7.2), monitor/hmp-cmds.c.
_HVA: Final = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((.+)\) is 0x([0-9a-f]+)\s*")


def asked(monitor: QemuMonitor, command: str, **arguments: Any) -> Answer:
    """What QEMU answers to a command.

    Raises:
        PeerError: it refuses it, or does not answer.
    """
    return Answer(monitor.name, command, monitor.execute(command, **arguments))


def human(monitor: QemuMonitor, line: str) -> str:
    """What QEMU's monitor for people prints.

    Raises:
        PeerError: it refuses it, or does not answer.
    """
    return asked(monitor, "human-monitor-command", **{"command-line": line}).text()


def host_address(monitor: QemuMonitor, block: str, gpa: int, text: str = "") -> int:
    """Where in QEMU's memory the guest has a block.

    Args:
        block: its name, without the path of a backend.
        gpa: guest-physical address of a part of it.
        text: the source, for messages; the monitor's name where it is not given.

    Raises:
        SourceError: it is not there.
        PeerError: QEMU does not answer.
    """
    said = human(monitor, f"gpa2hva {gpa:#x}")
    match = _HVA.fullmatch(said)
    if match is None or match[1].removeprefix("/objects/") != block:
        raise SourceError(
            f"{text or monitor.name}: {block} is not at {gpa:#x} of guest memory any more "
            f"({said.strip()}); try again"
        )
    return int(match[2], 16)
