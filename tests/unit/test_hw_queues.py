"""Discovery of work queues: what healthy ones look like, how they are probed, and what is noted."""

import errno

import pytest

from pagecheck.hw import devices
from pagecheck.hw.devices import Host, WorkQueue
from pagecheck.hw.queues import find_queue, list_devices, usable_queues
from tests.support.sysfs_tree import (
    ALL_BUT_BATCH,
    ALL_OPCODES,
    COMPVAL,
    GNR,
    Tree,
    bitmap,
    one_line,
    only,
    raises,
)

# Healthy


def test_sapphire_rapids_shared(tree: Tree) -> None:
    tree.device()
    path = tree.queue()
    assert only(tree, probe=True) == WorkQueue(
        name="wq0.0",
        path=path,
        device="dsa0",
        mode="shared",
        size=64,
        threshold=60,
        max_batch=1024,
        max_transfer=2 << 20,
        version=0x100,
        numa_node=0,
        submit="enqcmd",
        batches=True,  # although the kernel hides the opcode
        unusable=None,
        note=None,
        ats=True,
        prs=True,
        enqcmds_retries=32,
    )


def test_sapphire_rapids_dedicated(tree: Tree) -> None:
    tree.device()
    tree.queue(mode="dedicated", threshold=0)
    queue = only(tree)
    assert (queue.mode, queue.submit, queue.batches) == ("dedicated", "movdir64b", True)
    assert (queue.size, queue.threshold, queue.unusable) == (64, 0, None)


def test_granite_rapids_takes_batches_by_write(tree: Tree) -> None:
    tree.device(version=GNR, op_cap=bitmap(ALL_OPCODES))
    tree.queue(op_config=bitmap(ALL_OPCODES))
    queue = only(tree, tree.host(probe_map=lambda path: errno.EPERM), probe=True)
    assert (queue.version, queue.submit, queue.batches) == (0x200, "write", True)
    assert queue.unusable is None
    assert "CAP_SYS_RAWIO" in one_line(queue.note or "")


def test_granite_rapids_on_a_kernel_that_refuses_batches_by_write(tree: Tree) -> None:
    tree.device(version=GNR)
    tree.queue()
    by_write = only(tree, tree.host(probe_map=lambda path: errno.EPERM), probe=True)
    assert (by_write.submit, by_write.batches) == ("write", False)
    assert "31f04b537152" in one_line(by_write.note or "")
    assert only(tree, probe=True).batches


def test_sapphire_rapids_by_write_takes_no_batches(tree: Tree) -> None:
    tree.device()
    tree.queue()
    queue = only(tree, tree.host(probe_map=lambda path: errno.EPERM), probe=True)
    assert (queue.submit, queue.batches, queue.unusable) == ("write", False, None)
    assert "CAP_SYS_RAWIO" in one_line(queue.note or "")
    assert "no batches" in str(queue.note)
    assert "version 0x100" in str(queue.note)


def test_an_honest_op_cap_does_not_make_version_1_take_batches_by_write(tree: Tree) -> None:
    tree.device(op_cap=bitmap(ALL_OPCODES))
    tree.queue(op_config=bitmap(ALL_OPCODES))
    queue = only(tree, tree.host(probe_map=lambda path: errno.EPERM), probe=True)
    assert (queue.submit, queue.batches) == ("write", False)


def test_two_devices_in_order_with_their_nodes(tree: Tree) -> None:
    for number, node in ((10, 1), (2, 0)):
        tree.device(number, numa_node=node)
        for queue in (11, 2):
            tree.queue(queue, number)
    found = list_devices(tree.host())
    assert [(d.name, d.numa_node) for d in found] == [("dsa2", 0), ("dsa10", 1)]
    expected = ["wq2.2", "wq2.11", "wq10.2", "wq10.11"]
    assert [q.name for d in found for q in d.queues] == expected
    usable = usable_queues(tree.host())
    assert [q.name for q in usable] == expected
    assert [(q.device, q.numa_node) for q in usable][1:3] == [("dsa2", 0), ("dsa10", 1)]


def test_iax_and_other_entries_are_ignored(tree: Tree) -> None:
    tree.device()
    tree.queue()
    tree.device(1, kind="iax")
    tree.queue(0, 1, kind="iax")
    for name in (
        "wq0.0",
        "engine0.0",
        "group0.0",
        "dsa",
        "dsa00",
        "dsa0x",
        "dsax",
        "dsa٣",
        "file3",
    ):
        (tree.devices / name).mkdir(exist_ok=True)
    for name in ("wq1.0", "wq0", "wq0.", "wq.0", "wq0.00", "wq0.0.0", "wq00.1", "engine0.0"):
        (tree.devices / "dsa0" / name).mkdir()
    [device] = list_devices(tree.host())
    assert [(device.name, q.name) for q in device.queues] == [("dsa0", "wq0.0")]


def test_block_on_fault_is_no_reason(tree: Tree) -> None:
    tree.device()
    tree.queue(block_on_fault=1)
    assert only(tree).unusable is None


def test_no_numa_node(tree: Tree) -> None:
    tree.device(0, numa_node=-1)
    tree.device(1, numa_node=None)
    assert [device.numa_node for device in list_devices(tree.host())] == [-1, -1]


def test_a_kernel_without_the_newer_attributes(tree: Tree) -> None:
    """driver_name came with 6.7, op_config with devices that can restrict opcodes."""
    tree.device(op_cap=bitmap(ALL_OPCODES))
    tree.queue(driver_name=None, op_config=None)
    queue = only(tree)
    assert (queue.unusable, queue.batches) == (None, True)


@pytest.mark.parametrize(
    "text",
    [
        bitmap(COMPVAL),
        "40",
        "0x40",
        "0x40 0x0 0x0 0x0",  # as kernels before op_config print it
        "00000001,00000040",
    ],
)
def test_ways_of_printing_a_bitmap(tree: Tree, text: str) -> None:
    tree.device(op_cap=text)
    tree.queue(op_config=None)
    assert only(tree).unusable is None


@pytest.mark.parametrize("text", ["0x0 0x40", "00000040,00000000", "00000000000000bf"])
def test_a_bitmap_with_bit_6_elsewhere(tree: Tree, text: str) -> None:
    tree.device(op_cap=text)
    tree.queue(op_config=None)
    assert "COMPVAL" in str(only(tree).unusable)


def test_the_smallest_transfer_that_will_do(tree: Tree) -> None:
    tree.device()
    tree.queue(max_transfer_size=4096)
    assert only(tree).unusable is None


def test_the_smaller_limit_of_queue_and_device(tree: Tree) -> None:
    tree.device(max_batch_size=64, max_transfer_size=8192)
    tree.queue(threshold=1000)
    queue = only(tree)
    assert (queue.max_batch, queue.max_transfer, queue.threshold) == (64, 8192, 64)


def test_values_do_not_change(tree: Tree) -> None:
    tree.device()
    tree.queue()
    with pytest.raises(AttributeError):
        only(tree).size = 3
    with pytest.raises(AttributeError):
        list_devices(tree.host())[0].state = "enabled"


# Probing


def test_nothing_is_opened_without_probe(tree: Tree) -> None:
    tree.device()
    path = tree.queue()
    host = tree.host(probe_map=raises(errno.EBUSY))
    assert only(tree, host).unusable is None
    assert find_queue(path, host).unusable is None
    assert len(usable_queues(host)) == 1
    assert "in use" in str(only(tree, host, probe=True).unusable)
    assert "in use" in str(find_queue(path, host, probe=True).unusable)
    assert usable_queues(host, probe=True) == []


def test_only_what_looks_usable_is_opened(tree: Tree) -> None:
    tree.device()
    tree.queue(0)
    tree.queue(1, state="disabled")
    tree.queue(2, node=False)
    opened: list[str] = []
    list_devices(tree.host(probe_map=lambda path: opened.append(path) or 0), probe=True)
    assert opened == [f"{tree.nodes}/wq0.0"]


def test_the_probe_maps_and_leaves_nothing_open(tree: Tree, clean: None) -> None:
    tree.device()
    assert devices.probe_map(tree.queue()) == 0


def test_the_probe_tells_a_refused_mapping_from_a_refused_open(tree: Tree, clean: None) -> None:
    (tree.nodes / "short").write_bytes(b"")
    assert devices.probe_map(f"{tree.nodes}/short") == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        devices.probe_map(f"{tree.nodes}/none")
    with pytest.raises(IsADirectoryError):
        devices.probe_map(str(tree.nodes))


def test_the_default_host_is_this_machine() -> None:
    host = Host()
    assert (host.sysfs, host.dev) == ("/sys", "/dev")
    assert host.devices == "/sys/bus/dsa/devices"
    assert list_devices() == list_devices(host)
    for instruction in ("enqcmd", "movdir64b"):
        why = host.cpu_why_not(instruction)
        assert why is None or instruction in why.lower()
    assert host.may_open("/dev/null")
    assert not host.may_open("/none")


# Notes


@pytest.mark.parametrize(("mode", "lacks"), [("shared", "enqcmd"), ("dedicated", "movdir64b")])
def test_the_cpu_lacks_the_instruction(tree: Tree, mode: str, lacks: str) -> None:
    tree.device()
    tree.queue(mode=mode)
    queue = only(tree, tree.host(lacks=lacks))
    assert (queue.submit, queue.batches, queue.unusable) == ("write", False, None)
    assert f"this CPU lacks {lacks}" in one_line(str(queue.note))
    other = {"enqcmd": "movdir64b", "movdir64b": "enqcmd"}[lacks]
    assert only(tree, tree.host(lacks=other)).submit == lacks


def test_the_capability_is_not_advised_where_the_cpu_is_what_lacks(tree: Tree) -> None:
    tree.device()
    tree.queue()
    host = tree.host(lacks="enqcmd", probe_map=lambda path: errno.EPERM)
    assert "CAP_SYS_RAWIO" not in str(only(tree, host, probe=True).note)


def test_batches_that_the_owner_of_the_queue_forbids(tree: Tree) -> None:
    tree.device(op_cap=bitmap(ALL_OPCODES))
    tree.queue(op_config=bitmap(ALL_BUT_BATCH))
    queue = only(tree)
    assert (queue.submit, queue.batches, queue.unusable) == ("enqcmd", False, None)
    assert "op_config lacks BATCH, bit 1" in one_line(str(queue.note))


def test_batches_of_one(tree: Tree) -> None:
    tree.device()
    tree.queue(max_batch_size=1)
    queue = only(tree)
    assert (queue.batches, queue.unusable) == (False, None)
    assert "max_batch_size is 1" in one_line(str(queue.note))


# What else must hold


def test_a_worker_can_afford_the_import() -> None:
    from tests.unit.test_imports import loaded_by

    heavy = {"numpy", "psutil", "dataclasses", "typing", "inspect", "json", "pathlib", "re", "mmap"}
    check = f"assert not set(sys.modules) & {heavy}, sys.modules"
    assert "errno" in loaded_by(f"import pagecheck.hw.queues; {check}", "-S", "-E", "-s")
