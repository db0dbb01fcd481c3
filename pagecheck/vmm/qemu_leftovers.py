"""Overlays that a killed save has left in QEMU, which no disk was continued in.

Danger: an overlay that was in use holds what the guest wrote, also when its disk was unplugged
since. Decision: one is removed only if QEMU opened it without the file below, which its header
names: in use it has that file, and one that was made complete (block-stream) names none any more.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any, Final

from pagecheck.errors import PeerError
from pagecheck.vmm.pause import QemuMonitor
from pagecheck.vmm.qemu_asking import asked

_NODE: Final = re.compile(r"pagecheck-([0-9a-f]{8})-\d+")
_EMPTY_BYTES: Final = 1 << 20  # more than the tables of an overlay without data


def remove_leftovers(monitor: QemuMonitor) -> None:
    """Removes the nodes and the files of overlays that were prepared and never used.

    Raises:
        PeerError: QEMU does not answer, or its answer is invalid.
    """
    unused, files = [], {}
    for node in asked(monitor, "query-named-block-nodes").items():
        name, image = node.member("node-name").text(), node.member("image")
        files[name] = node.member("file").text()
        depth, size = node.optional("backing_file_depth"), image.optional("actual-size")
        if (
            _NODE.fullmatch(name)
            and (depth is not None and not depth.size())
            and (size is not None and size.size() <= _EMPTY_BYTES)
            and image.optional("backing-filename") is not None
        ):
            unused.append(name)
    for name in unused:
        with contextlib.suppress(PeerError, OSError):  # it is in use all the same
            _delete(monitor, name)
            _delete(monitor, f"{name}f")
            path, token = files.get(f"{name}f", ""), name.split("-")[1]
            if path.startswith("/") and path.endswith(f".pagecheck-{token}.qcow2"):
                os.unlink(path)


def _delete(monitor: QemuMonitor, node: str) -> None:
    arguments: dict[str, Any] = {"node-name": node}
    monitor.execute("blockdev-del", **arguments)
