"""Whether there is any DSA hardware; a worker of a host that has none loads nothing more of it."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

DEVICES: Final = "/sys/bus/dsa/devices"  # the bus, where a driver for it is loaded


def why_no_device(folder: str) -> str:
    """One line: what is missing where no device is found in the folder."""
    if os.path.isdir(folder):
        return f"no DSA device: {folder} has none; this machine or guest was given no such hardware"
    return (
        f"no DSA device: {folder} does not exist; "
        "no such hardware, or the idxd driver is not loaded (modprobe idxd)"
    )
