"""A tree such as the idxd driver shows in sysfs, with device nodes, in a temporary folder,
and what tests ask of it; `accel_config.py` changes it as an administrator does."""

import os
from collections.abc import Callable
from pathlib import Path

from pagecheck.hw.devices import Host, WorkQueue
from pagecheck.hw.queues import list_devices

SPR, GNR = "0x100", "0x200"
BATCH, COMPVAL = 1 << 1, 1 << 6
ALL_OPCODES = 0x1003F03FF
ALL_BUT_BATCH = ALL_OPCODES & ~BATCH


def bitmap(opcodes: int) -> str:
    """256 bits as `%*pb` prints them: groups of 32, the most significant first."""
    return ",".join(f"{opcodes >> shift & 0xFFFFFFFF:08x}" for shift in range(224, -1, -32))


class Tree:
    """Files under `root`; None as a value leaves a file out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.devices = root / "sys/bus/dsa/devices"
        self.nodes = root / "dev/dsa"
        self.nodes.mkdir(parents=True)

    def device(self, number: int = 0, kind: str = "dsa", **attributes: object) -> None:
        """A healthy Sapphire Rapids device; its kernel hides BATCH, as all with the fix do."""
        defaults = {
            "version": SPR,
            "state": "enabled",
            "cmd_status": "0",
            "max_work_queues_size": 128,
            "numa_node": 0,
            "max_batch_size": 1024,
            "max_transfer_size": 1 << 31,
            "pasid_enabled": 1,
            "op_cap": bitmap(ALL_BUT_BATCH),
        }
        self._write(self.devices / f"{kind}{number}", defaults | attributes)

    def queue(
        self, number: int = 0, device: int = 0, kind: str = "dsa", node: bool = True, **attributes
    ) -> str:
        """A healthy shared queue; returns the path of its node."""
        name = f"wq{device}.{number}"
        defaults = {
            "type": "user",
            "driver_name": "user",
            "name": "pagecheck",
            "group_id": 0,
            "priority": 10,
            "ats_disable": 0,
            "prs_disable": 0,
            "enqcmds_retries": 32,
            "state": "enabled",
            "mode": "shared",
            "size": 64,
            "threshold": 60,
            "max_batch_size": 1024,
            "max_transfer_size": 2 << 20,
            "block_on_fault": 0,
            "op_config": bitmap(ALL_BUT_BATCH),
        }
        self._write(self.devices / f"{kind}{device}/{name}", defaults | attributes)
        if node:
            (self.nodes / name).write_bytes(bytes(4096))
        return f"{self.nodes}/{name}"

    def host(
        self,
        lacks: str | None = None,
        may_open: Callable[[str], bool] = lambda path: True,
        probe_map: Callable[[str], int] = lambda path: 0,
    ) -> Host:
        """This tree, on a CPU that has every instruction but the one that it `lacks`."""

        def why_not(name: str) -> str | None:
            return f"this CPU lacks {name}" if name == lacks else None

        return Host(f"{self.root}/sys", f"{self.root}/dev", why_not, may_open, probe_map)

    @staticmethod
    def _write(folder: Path, attributes: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in attributes.items():
            if isinstance(value, bytes):
                (folder / name).write_bytes(value)
            elif value is not None:
                (folder / name).write_text(f"{value}\n")


def only(tree: Tree, host: Host | None = None, *, probe: bool = False) -> WorkQueue:
    """The one queue of the one device."""
    [device] = list_devices(host or tree.host(), probe=probe)
    [queue] = device.queues
    return queue


def raises(code: int) -> Callable[[str], int]:
    """A probe whose open fails with this errno."""

    def probe(path: str) -> int:
        raise OSError(code, os.strerror(code), path)

    return probe


def one_line(text: str) -> str:
    """`text`, which must be a reason and a fix on one printable line."""
    assert text.isprintable()
    assert "; " in text, "a reason and a fix"
    return text
