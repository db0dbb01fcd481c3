"""Real guests of which a part of the RAM, or all of it, is private to QEMU."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tools.guest import Guest

MACHINES: Final = ("pc", "microvm", "q35")
BLOCKS: Final = {"pc": ["pc.ram"], "microvm": ["microvm.ram"], "q35": ["node0", "node1"]}


@contextlib.contextmanager
def private_guest(machine: str) -> Iterator[Guest]:
    """One of 256 MiB with a plain -m; q35 has two NUMA nodes, of which one is shared."""
    backend = "numa" if machine == "q35" else "private"
    with tempfile.TemporaryDirectory(prefix="pctest-") as folder:
        path = Path(folder) / "qmp"
        extra = ("-qmp", f"unix:{path},server=on,wait=off")
        with Guest.boot(machine=machine, backend=backend, extra=extra) as booted:
            booted.qmp_path = path  # type: ignore[attr-defined]
            yield booted


def source(guest: Guest) -> str:
    """The guest by its second monitor."""
    return f"qmp:{guest.qmp_path}"  # type: ignore[attr-defined]
