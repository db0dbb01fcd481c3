"""Finding one work queue by its path: which it is, what is said where there is none, and that the
document explains every reason that discovery gives."""

import os
from pathlib import Path

import pytest

from pagecheck.errors import EngineError
from pagecheck.hw import queues
from pagecheck.hw.queues import find_queue, list_devices, usable_queues
from tests.support.sysfs_tree import Tree, one_line

DOCUMENT = Path(__file__).parents[2] / "docs/hardware.md"


def test_find_queue(tree: Tree) -> None:
    tree.device()
    tree.queue(0)
    path = tree.queue(1, size=32)
    found = find_queue(path, tree.host())
    assert (found.name, found.size) == ("wq0.1", 32)
    assert found == list_devices(tree.host())[0].queues[1]
    assert find_queue(f"{tree.nodes}/../dsa/wq0.1", tree.host()) == found


def test_the_state_that_tells_full_from_disabled(tree: Tree) -> None:
    tree.device()
    found = find_queue(tree.queue(), tree.host())
    fd = queues.open_state(found, tree.host())
    try:
        assert os.pread(fd, 100, 0) == b"enabled\n"
        tree.queue(state="disabled")
        assert os.pread(fd, 100, 0) == b"disabled\n"
    finally:
        os.close(fd)
    assert queues.open_state(found._replace(name="wq0.7"), tree.host()) == -1


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


# The document


# Words of each message that the tests of discovery provoke.
REASONS = [
    "no PASID",
    "state is halted",
    "state is disabled",
    "not configured",
    "not user",
    "driver_name is",
    "size is 0 entries",
    "threshold is 0 entries",
    "it has no name",
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
    "ats_disable is 1",
    "prs_disable is 1",
]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_in_the_document(reason: str) -> None:
    table = DOCUMENT.read_text().partition("## Troubleshooting")[2]
    assert reason in " ".join(table.split())
