"""accel-config on a made-up sysfs tree: it does what the tool does to the driver, and refuses and
clears what the driver refuses and clears.

Source: Linux drivers/dma/idxd/sysfs.c, device.c, cdev.c; accel-config's manual pages.
"""

import shlex
from pathlib import Path

from tests.support.sysfs_tree import Tree

OPTIONS = {
    "-g": "group_id",
    "-m": "mode",
    "-s": "size",
    "-y": "type",
    "-n": "name",
    "-d": "driver_name",
    "-t": "threshold",
    "-p": "priority",
    "-c": "max_batch_size",
    "-x": "max_transfer_size",
}
CLEARED = {
    "type": "none",
    "name": "",
    "mode": "shared",
    "threshold": 0,
    "priority": 0,
    "block_on_fault": 0,
    "ats_disable": 0,
    "prs_disable": 0,
    "max_transfer_size": 2 << 20,
    "max_batch_size": 32,
    "state": "disabled",
}


class Refused(Exception):
    """The driver does not take it."""


class AccelConfig:
    """Runs command lines against a tree."""

    def __init__(self, tree: Tree) -> None:
        self.root = tree.devices

    def run(self, line: str) -> None:
        """Runs `accel-config ... && accel-config ...`.

        Raises:
            Refused: one of them fails.
        """
        for command in line.split(" && "):
            program, verb, at, *options = shlex.split(command)
            assert program == "accel-config"
            getattr(self, verb.replace("-", "_"))(self.root / at, options)

    def disable_wq(self, wq: Path, _options: list[str]) -> None:
        if get(wq, "state") != "enabled":
            raise Refused(f"{wq.name} is not enabled")
        self._clear(wq)

    def config_wq(self, wq: Path, options: list[str]) -> None:
        if get(wq, "state") != "disabled":
            raise Refused(f"{wq.name}: configured while it is enabled")
        values = {
            OPTIONS[key]: value for key, value in zip(options[::2], options[1::2], strict=True)
        }
        for name in [
            each for each in OPTIONS.values() if each in values
        ]:  # mode, size, then threshold
            self._set(wq, name, values[name])

    def enable_wq(self, wq: Path, _options: list[str]) -> None:
        if get(wq.parent, "state") != "enabled":
            raise Refused("its device is not enabled")
        for name, wrong in (("type", "none"), ("name", ""), ("size", "0"), ("driver_name", "")):
            if (wq / name).exists() and get(wq, name) == wrong:
                raise Refused(f"{name} is {wrong!r}")
        if get(wq, "mode") == "shared" and get(wq, "threshold") == "0":
            raise Refused("a shared queue without a threshold")
        if get(wq, "group_id") == "-1":
            raise Refused("it is in no group")
        put(wq, "state", "enabled")

    def disable_device(self, device: Path, _options: list[str]) -> None:
        for wq in device.glob("wq*"):
            self._clear(wq)
            put(wq, "size", 0)
            put(wq, "group_id", -1)
        for engine in device.glob("engine*"):
            put(engine, "group_id", -1)
        put(device, "state", "disabled")

    def config_engine(self, engine: Path, options: list[str]) -> None:
        if get(engine.parent, "state") != "disabled":
            raise Refused("its device is enabled")
        engine.mkdir(exist_ok=True)
        assert options[0] == "-g"
        put(engine, "group_id", options[1])

    def enable_device(self, device: Path, _options: list[str]) -> None:
        if not any(get(engine, "group_id") != "-1" for engine in device.glob("engine*")):
            raise Refused("no engine is in a group")
        if not any(get(wq, "size") != "0" for wq in device.glob("wq*")):
            raise Refused("no queue has a size")
        put(device, "state", "enabled")

    def _clear(self, wq: Path) -> None:
        for name, value in CLEARED.items():
            put(wq, name, value)
        if (wq / "op_config").exists():
            put(wq, "op_config", get(wq.parent, "op_cap"))

    def _set(self, wq: Path, name: str, value: str) -> None:
        if not (wq / name).exists():
            raise Refused(f"this kernel has no {name}")
        if name in ("size", "group_id") and get(wq.parent, "state") == "enabled":
            raise Refused(f"{name}: the device is enabled")
        size, mode = int(get(wq, "size")), get(wq, "mode")
        if name == "threshold" and (mode == "dedicated" or not 0 < int(value) <= size):
            raise Refused(f"threshold {value} of {size} entries, {mode}")
        put(wq, name, value)


def get(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()


def put(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(f"{value}\n")
