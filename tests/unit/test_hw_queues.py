"""Discovery of work queues: what healthy ones look like, and one case per reason."""

import errno
import os
from pathlib import Path

import pytest

from pagecheck.errors import EngineError
from pagecheck.hw import queues
from pagecheck.hw.queues import Host, WorkQueue, find_queue, list_devices, usable_queues
from tests.unit.sysfs_tree import (
    ALL_BUT_BATCH,
    ALL_OPCODES,
    BATCH,
    COMPVAL,
    GNR,
    Tree,
    bitmap,
)

DOCUMENT = Path(__file__).parents[2] / "docs/hardware.md"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def raises(code: int):
    def probe(path: str) -> int:
        raise OSError(code, os.strerror(code), path)

    return probe


def only(tree: Tree, host: Host | None = None, *, probe: bool = False) -> WorkQueue:
    [device] = list_devices(host or tree.host(), probe=probe)
    [queue] = device.queues
    return queue


def bad_queue(tree: Tree, **attributes: object) -> str:
    """Why a queue that is healthy but for some attributes is unusable."""
    tree.device()
    tree.queue(**attributes)
    queue = only(tree)
    assert queue.unusable is not None
    assert (queue.submit, queue.batches) == (None, False)
    assert usable_queues(tree.host()) == []
    return one_line(queue.unusable)


def one_line(text: str) -> str:
    assert text.isprintable()
    assert "; " in text, "a reason and a fix"
    return text


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
    assert queues.probe_map(tree.queue()) == 0


def test_the_probe_tells_a_refused_mapping_from_a_refused_open(tree: Tree, clean: None) -> None:
    (tree.nodes / "short").write_bytes(b"")
    assert queues.probe_map(f"{tree.nodes}/short") == errno.EINVAL
    with pytest.raises(FileNotFoundError):
        queues.probe_map(f"{tree.nodes}/none")
    with pytest.raises(IsADirectoryError):
        queues.probe_map(str(tree.nodes))


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
        ({"type": "none", "size": 0}, ["not configured", "config-wq"]),
        ({"driver_name": "crypto"}, ["driver_name is 'crypto'", "-d user"]),
        ({"driver_name": ""}, ["driver_name is ''", "-d user"]),
        ({"size": 0}, ["size is 0", "-s 128"]),
        ({"threshold": 0}, ["threshold is 0", "-t 63"]),
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
    assert len(why) < 400


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


# Finding one


def test_find_queue(tree: Tree) -> None:
    tree.device()
    tree.queue(0)
    path = tree.queue(1, size=32)
    found = find_queue(path, tree.host())
    assert (found.name, found.size) == ("wq0.1", 32)
    assert found == list_devices(tree.host())[0].queues[1]
    assert find_queue(f"{tree.nodes}/../dsa/wq0.1", tree.host()) == found


@pytest.mark.parametrize(
    "path",
    ["", "wq0.0", "/tmp/wq0.0", "{dev}/iax/wq0.0", "{dev}/dsa/wq0", "{dev}/dsa/../wq0.0", "\0\x1b"],
)
def test_what_is_no_path_of_a_queue(tree: Tree, path: str) -> None:
    tree.device()
    usable = tree.queue()
    path = path.format(dev=tree.nodes.parent)
    with pytest.raises(EngineError, match="not a DSA work queue such as") as caught:
        find_queue(path, tree.host())
    assert one_line(str(caught.value)).endswith(f"usable here: {usable}")


def test_a_path_with_a_number_that_is_too_long(tree: Tree) -> None:
    with pytest.raises(EngineError) as caught:
        find_queue(f"{tree.nodes}/wq{'9' * 5000}.0", tree.host())
    assert len(str(caught.value)) < 1000


def test_no_such_queue_says_which_there_are(tree: Tree) -> None:
    tree.device()
    paths = [tree.queue(number) for number in range(10)]
    tree.queue(10, state="disabled")
    missing = f"{tree.nodes}/wq0.11"
    with pytest.raises(EngineError) as caught:
        find_queue(missing, tree.host())
    expected = f"{missing}: sysfs knows no such work queue; usable here: {', '.join(paths[:8])}"
    assert str(caught.value) == f"{expected} and 2 more"


def test_no_such_queue_and_none_that_is_usable(tree: Tree) -> None:
    tree.device()
    tree.queue(0, state="disabled")
    with pytest.raises(
        EngineError, match="no work queue is usable here, 'pagecheck devices' says why"
    ):
        find_queue(f"{tree.nodes}/wq3.0", tree.host())


def test_no_device(tree: Tree) -> None:
    with pytest.raises(EngineError, match=r"no DSA device: .*does not exist.*modprobe idxd"):
        find_queue(f"{tree.nodes}/wq0.0", tree.host())
    assert list_devices(tree.host()) == []
    assert usable_queues(tree.host()) == []
    tree.device(1, kind="iax")
    assert "has none" in queues.why_no_device(tree.host())
    assert list_devices(tree.host()) == []


def test_a_device_that_goes_away(tree: Tree) -> None:
    """What readdir told is gone when it is read."""
    tree.devices.mkdir(parents=True)
    (tree.devices / "dsa0").symlink_to("nowhere")
    [device] = list_devices(tree.host())
    assert device.queues == ()
    assert "missing" in str(device.unusable)


# What else must hold


def test_a_worker_can_afford_the_import() -> None:
    from tests.unit.test_imports import loaded_by

    heavy = {"numpy", "psutil", "dataclasses", "typing", "inspect", "json", "pathlib", "re", "mmap"}
    check = f"assert not set(sys.modules) & {heavy}, sys.modules"
    assert "errno" in loaded_by(f"import pagecheck.hw.queues; {check}", "-S", "-E", "-s")


# Words of each message that the tests above provoke.
REASONS = [
    "no PASID",
    "state is halted",
    "state is disabled",
    "not configured",
    "not user",
    "driver_name is",
    "size is 0 entries",
    "threshold is 0 entries",
    "max_transfer_size is",
    "lacks COMPVAL",
    "does not exist",
    "no permission",
    "in use by another process",
    "opening it",
    "mapping the portal is not permitted",
    "mapping the portal",
    "max_batch_size is",
    "op_config lacks BATCH",
    "refuses them by write(2) on version 0x100",
    "refuses them by write(2) on every device",
    "is missing",
    "holds",
    "lacks ENQCMD",
    "no DSA device",
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_in_the_document(reason: str) -> None:
    table = DOCUMENT.read_text().partition("## Troubleshooting")[2]
    assert reason in " ".join(table.split())
