"""RAM that comes or goes during a scan: the answer is for what was there at first.

Left unhandled: what goes and comes again in between, alike, is not noticed.
"""

from __future__ import annotations

from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.pause import QemuMonitor

_OBJECTS = "/objects/"


def plugged(monitor: QemuMonitor) -> dict[str, int]:
    """The memory devices: DIMMs, virtio-mem and the like.

    Returns:
        Bytes that the guest has of each, by its name.

    Raises:
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    command = "query-memory-devices"
    found: dict[str, int] = {}
    for device in Answer(monitor.name, command, monitor.execute(command)).items():
        data = device.member("data")
        name = data.optional("id") or data.optional("memdev")
        size = data.optional("size")
        if name is not None and size is not None:
            found[name.text().removeprefix(_OBJECTS)] = size.size()
    return found


def changes(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """A line for every memory device that is not as it was.

    Args:
        before, after: what `plugged` gave.
    """
    lines = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if was is None:
            what = f"was plugged ({now} bytes)"
        elif now is None:
            what = "was unplugged"
        else:
            what = f"changed from {was} to {now} bytes"
        lines.append(
            f"memory device {name!r} {what} meanwhile: the answer is for the RAM that was there at "
            "first"
        )
    return lines
