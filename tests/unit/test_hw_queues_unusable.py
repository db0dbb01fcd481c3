"""Discovery of work queues: one case per reason why a device or a queue cannot be used."""

import errno
import os
from pathlib import Path

import pytest

from pagecheck.hw.queues import find_queue, list_devices, usable_queues
from tests.support.sysfs_tree import BATCH, Tree, bitmap, one_line, only, raises


def bad_queue(tree: Tree, **attributes: object) -> str:
    """Why a queue that is healthy but for some attributes is unusable."""
    tree.device()
    tree.queue(**attributes)
    queue = only(tree)
    assert queue.unusable is not None
    assert (queue.submit, queue.batches) == (None, False)
    assert usable_queues(tree.host()) == []
    return one_line(queue.unusable)


# Reasons, of the device


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"state": "disabled"}, ["disabled", "accel-config enable-device dsa0"]),
        ({"state": "halted"}, ["halted", "dmesg"]),
        ({"state": "unknown"}, ["unknown", "enable-device"]),
        ({"pasid_enabled": 0}, ["pasid_enabled is 0", "intel_iommu=on,sm_on"]),
        ({"version": None}, ["dsa0/version", "missing", "5.18"]),
        ({"version": "two"}, ["dsa0/version", "'two'", "not a number"]),
        ({"version": "9" * 5000}, ["dsa0/version", "...", "not a number"]),
        ({"version": str(1 << 64)}, ["dsa0/version", "not a number"]),
        ({"version": "0x"}, ["dsa0/version", "not a number"]),
        ({"version": "1_0"}, ["dsa0/version", "not a number"]),
        ({"version": "-1"}, ["dsa0/version", "not a number"]),
        ({"numa_node": "north"}, ["dsa0/numa_node", "'north'"]),
        ({"max_batch_size": ""}, ["dsa0/max_batch_size", "''"]),
        ({"max_transfer_size": "1" * 21}, ["dsa0/max_transfer_size"]),
        ({"pasid_enabled": None}, ["dsa0/pasid_enabled", "missing"]),
        ({"state": None}, ["dsa0/state", "missing"]),
        ({"state": ""}, ["dsa0/state", "nothing"]),
        ({"state": b"\x1b[2J\xff\n\nx"}, ["?[2J", "enable-device"]),
        ({"op_cap": None}, ["dsa0/op_cap", "missing"]),
        ({"op_cap": "00000000,xyz"}, ["dsa0/op_cap", "not a bitmap"]),
        ({"op_cap": ""}, ["dsa0/op_cap", "not a bitmap"]),
    ],
)
def test_device(tree: Tree, attributes: dict, words: list[str]) -> None:
    tree.device(**attributes)
    tree.queue()
    [device] = list_devices(tree.host())
    why = one_line(str(device.unusable))
    assert [word for word in words if word not in why] == []
    assert device.queues[0].unusable == f"device dsa0: {why}"
    assert usable_queues(tree.host()) == []
    assert find_queue(device.queues[0].path, tree.host()) == device.queues[0]


def test_an_attribute_that_is_a_folder_and_one_that_nobody_writes(tree: Tree) -> None:
    tree.device(0, version=None)
    (tree.devices / "dsa0/version").mkdir()
    tree.device(1, version=None)
    os.mkfifo(tree.devices / "dsa1/version")
    first, second = list_devices(tree.host())
    assert "dsa0/version: Is a directory" in one_line(str(first.unusable))
    assert "dsa1/version" in one_line(str(second.unusable))


# Reasons, of the queue


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"state": "disabled"}, ["disabled", "accel-config enable-wq dsa0/wq0.0"]),
        ({"type": "kernel"}, ["type is kernel", "-y user"]),
        ({"type": "none", "size": 0}, ["not configured", "docs/hardware.md"]),
        ({"driver_name": "crypto"}, ["driver_name is 'crypto'", "-d user"]),
        ({"driver_name": ""}, ["driver_name is ''", "-d user"]),
        ({"size": 0}, ["size is 0", "-s 128"]),
        ({"threshold": 0}, ["threshold is 0", "-t 64"]),
        ({"name": ""}, ["no name", "-n pagecheck"]),
        ({"max_transfer_size": 2048}, ["2048 bytes", "4096", "-x 2097152"]),
        ({"op_config": bitmap(BATCH)}, ["lacks COMPVAL", "bit 6"]),
        ({"op_config": "?"}, ["wq0.0/op_config", "'?'", "not a bitmap"]),
        ({"op_config": "1,-2"}, ["wq0.0/op_config", "not a bitmap"]),
        ({"mode": "public"}, ["wq0.0/mode", "'public'", "neither shared nor dedicated"]),
        ({"mode": None}, ["wq0.0/mode", "missing"]),
        ({"type": None}, ["wq0.0/type", "missing"]),
        ({"size": "many"}, ["wq0.0/size", "'many'", "not a number"]),
        ({"threshold": None}, ["wq0.0/threshold", "missing"]),
        ({"max_batch_size": "x" * 500}, ["wq0.0/max_batch_size", "x..."]),
        ({"max_transfer_size": None}, ["wq0.0/max_transfer_size", "missing"]),
        ({"state": "a\nb"}, ["state is a?b"]),
        ({"node": False}, ["dev/dsa/wq0.0 does not exist", "--device"]),
    ],
)
def test_queue(tree: Tree, attributes: dict, words: list[str]) -> None:
    why = bad_queue(tree, **attributes)
    assert [word for word in words if word not in why] == []
    assert len(why) < 500


def test_what_is_configured_wrong_comes_before_what_is_disabled(tree: Tree) -> None:
    """Enabling it first would have to be undone."""
    assert "type is kernel" in bad_queue(tree, type="kernel", state="disabled")


def test_no_permission_on_the_node(tree: Tree) -> None:
    tree.device()
    path = Path(tree.queue())
    path.chmod(0o640)
    asked: list[str] = []
    host = tree.host(may_open=lambda node: bool(asked.append(node)))
    why = one_line(str(only(tree, host).unusable))
    assert asked == [str(path)]
    for word in (str(path), "mode 0640", f"user {os.geteuid()}", "udev"):
        assert word in why


def test_the_node_under_a_file(tree: Tree) -> None:
    tree.device()
    tree.queue(node=False)
    tree.nodes.rmdir()
    tree.nodes.write_text("")
    assert "Not a directory" in str(only(tree).unusable)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EBUSY, ["in use by another process", "shared"]),
        (errno.EPERM, ["opening it: Operation not permitted", "--device"]),
        (errno.EACCES, ["opening it: Permission denied", "--device"]),
        (errno.ENXIO, ["opening it: No such device", "dmesg"]),
        (0, ["opening it: Input/output error"]),
    ],
)
def test_open_refused(tree: Tree, code: int, words: list[str]) -> None:
    tree.device()
    tree.queue(mode="dedicated")
    queue = only(tree, tree.host(probe_map=raises(code)), probe=True)
    assert (queue.submit, queue.batches) == (None, False)
    assert [word for word in words if word not in one_line(str(queue.unusable))] == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.EBUSY, ["in use by another process"]),
        (errno.EINVAL, ["mapping the portal: Invalid argument"]),
    ],
)
def test_mapping_refused_for_good(tree: Tree, code: int, words: list[str]) -> None:
    tree.device()
    tree.queue()
    queue = only(tree, tree.host(probe_map=lambda path: code), probe=True)
    assert queue.submit is None
    assert [word for word in words if word not in one_line(str(queue.unusable))] == []
