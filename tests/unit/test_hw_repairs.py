"""The printed repairs, carried out on a tree that clears what the driver clears."""

from pathlib import Path

import pytest

from pagecheck.hw.repairs import last_command
from tests.support.sysfs_tree import ALL_OPCODES, BATCH, GNR, Tree, bitmap, only
from tests.unit.accel_config import AccelConfig, Refused

NO_BATCH = bitmap(ALL_OPCODES & ~BATCH)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def commands(why: str) -> str:
    """The part of a reason or note that can be pasted."""
    return why[why.index("accel-config") :]


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": "kernel"},
        {"type": "none", "state": "disabled", "name": "", "threshold": 0},
        {"driver_name": "crypto"},
        {"size": 0},
        {"threshold": 0},
        {"name": "", "state": "disabled"},
        {"max_transfer_size": 2048},
        {"op_config": bitmap(BATCH)},
        {"state": "disabled"},
        {"mode": "dedicated", "threshold": 0, "max_transfer_size": 2048},
        {"type": "kernel", "driver_name": None},  # before Linux 6.7
    ],
)
def test_the_repair_of_an_unusable_queue(tree: Tree, attributes: dict) -> None:
    tree.device(op_cap=bitmap(ALL_OPCODES))
    tree.queue(**{"op_config": bitmap(ALL_OPCODES), **attributes})
    before = only(tree)
    assert before.unusable is not None
    AccelConfig(tree).run(commands(before.unusable))
    after = only(tree)
    assert (after.unusable, after.note, after.batches) == (None, None, True)
    assert (after.mode, after.max_batch, after.max_transfer) == (before.mode, 1024, 2 << 20)
    if attributes != {"state": "disabled"}:  # that one only has to be enabled
        assert after.threshold == (after.size if after.mode == "shared" else 0)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"op_config": NO_BATCH}, "op_config lacks BATCH"),
        ({"max_batch_size": 1}, "max_batch_size is 1"),
        ({"ats_disable": 1}, "ats_disable is 1"),
        ({"prs_disable": 1}, "prs_disable is 1"),
        ({"ats_disable": 1, "prs_disable": 1}, "ats_disable is 1"),
    ],
)
def test_the_repair_of_a_slow_queue(tree: Tree, attributes: dict, words: str) -> None:
    tree.device(version=GNR, op_cap=bitmap(ALL_OPCODES))
    tree.queue(**{"op_config": bitmap(ALL_OPCODES), **attributes})
    before = only(tree)
    assert before.unusable is None
    assert words in str(before.note)
    AccelConfig(tree).run(commands(str(before.note)))
    assert (only(tree).unusable, only(tree).note) == (None, None)


def test_a_line_that_sets_one_attribute_repairs_nothing(tree: Tree) -> None:
    """The tree is as strict as the driver: what was printed once does not work on it."""
    tree.device()
    tree.queue(max_transfer_size=2048)
    config = AccelConfig(tree)
    config.run("accel-config disable-wq dsa0/wq0.0 && accel-config config-wq dsa0/wq0.0 -x 2097152")
    with pytest.raises(Refused, match="type is 'none'"):
        config.run("accel-config enable-wq dsa0/wq0.0")
    with pytest.raises(Refused, match="device is enabled"):
        config.run("accel-config config-wq dsa0/wq0.0 -s 64")


def test_limits_of_the_device_bound_the_repair(tree: Tree) -> None:
    tree.device(max_batch_size=64, max_transfer_size=1 << 16, max_work_queues_size=16)
    tree.queue(size=0)
    line = commands(str(only(tree).unusable))
    assert "-s 16 " in line
    assert "-t 16 " in line
    assert "-c 64 " in line
    assert line.endswith("accel-config enable-wq dsa0/wq0.0")
    assert "-x 65536 " in line


def test_the_last_command_is_told_where_something_is_disabled(tree: Tree) -> None:
    tree.device(cmd_status="0x80110000")
    tree.queue(state="disabled")
    why = str(only(tree).unusable)
    assert "state is disabled (cmd_status 0x80110000, no PASID: boot with" in why
    tree.device(state="disabled", cmd_status="0x80030000")
    assert "(cmd_status 0x80030000, the queue is in no group)" in str(only(tree).unusable)


def test_command_status_in_words() -> None:
    assert last_command(0) == ""
    assert last_command(0x123) == " (cmd_status 0x123)"
