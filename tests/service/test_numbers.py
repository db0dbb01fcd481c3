"""Numbers of blocks and channels are not used again, and a fork shares no ring."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest

from pagecheck import Client, Coordinator
from pagecheck.errors import PeerError, UsageError
from pagecheck.service.replies import RemoteBlock
from tests.support.known_ram import KnownRam
from tests.support.rams import PAGE
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess


def test_a_number_is_nobody_else_s(client: RawClient, known_ram: KnownRam) -> None:
    for expected in range(4):
        opened = client.result("open-channel")
        assert opened["channel"] == expected
        client.result("close-channel", {"channel": expected})
        attached = client.result("attach", {"name": "ram"}, [known_ram.fd])
        assert attached["block"] == expected
        client.result("detach", {"block": expected})
    assert client.error("close-channel", {"channel": 3})["class"] == "UsageError"
    assert client.error("detach", {"block": 3})["class"] == "UsageError"
    assert client.error("check", {"block": 0})["class"] == "UsageError"


def test_a_late_batch_meets_no_other_block(service: ServiceProcess, known_ram: KnownRam) -> None:
    """Its block was detached meanwhile, and all of another one's pages are zero."""
    empty = os.memfd_create("empty")
    os.ftruncate(empty, known_ram.size)
    with Client(service.path) as client:
        (old,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        client.detach(old)
        (new,) = client.attach(empty)
        with pytest.raises(PeerError, match="refused"):
            channel.check(old, [0])
        assert client.open_channel().check(new, [0]).zero.all()
    os.close(empty)


def test_numbers_beyond_the_table_of_a_worker(service: ServiceProcess, known_ram: KnownRam) -> None:
    """A worker keeps blocks by the lowest ten bits of their numbers."""
    offsets = [page * PAGE for page in range(64)]
    with Client(service.path) as client:
        (kept,) = client.attach(known_ram.fd, name="kept")
        for _ in range(1023):
            client.detach(client.attach(known_ram.fd, name="passing")[0])
        (late,) = client.attach(known_ram.fd, name="late")
        assert (kept.number, late.number) == (0, 1025)  # 1024 would be in the place of 0
        channel = client.open_channel()
        for block in (kept, late):
            assert (channel.check(block, offsets).zero == known_ram.zero[:64]).all()


def _refused(client: Client, block: RemoteBlock) -> None:
    """Whatever is asked about the block; nothing changes."""
    before = client.blocks()
    with contextlib.closing(client.open_channel()) as channel:
        for call in (
            lambda: client.check([block]),
            lambda: client.detach(block),
            lambda: channel.check(block, [0]),
        ):
            with pytest.raises(UsageError, match="block 'ram': was attached by another connection"):
                call()
    assert client.blocks() == before


def test_a_block_is_its_connection_s(service: ServiceProcess, known_ram: KnownRam) -> None:
    """Block 0 of every connection is another one; of these, all pages of one are zero."""
    empty = os.memfd_create("empty")
    os.ftruncate(empty, known_ram.size)
    with Client(service.path) as beside:
        with Client(service.path) as client:
            (old,) = client.attach(known_ram.fd, name="ram")
            (other,) = beside.attach(empty, name="ram")
            assert old.number == other.number
            _refused(beside, old)
            _refused(client, other)
        with Client(service.path) as again:
            again.attach(empty, name="ram")
            _refused(again, old)
            (found,) = again.blocks()
            assert again.check([found]).blocks[0].counts.zero == known_ram.pages
    os.close(empty)


# Python 3.12 and later warn; the child here calls what it is to be told about, and ends.
FORKS = pytest.mark.filterwarnings(
    "ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"
)


def in_a_fork(call: Callable[[], object]) -> str:
    """What a forked child is told."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        said = b"nothing"
        try:
            call()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}".encode()
        finally:
            os.write(writes, said)
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    with open(reads, "rb") as file:
        return file.read().decode()


@FORKS
def test_a_forked_client_is_its_parent_s(service: ServiceProcess, known_ram: KnownRam) -> None:
    offsets = [page * PAGE for page in range(256)]
    with Client(service.path) as client:
        (block,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        for call in (
            lambda: channel.check(block, offsets),
            client.blocks,
            client.open_channel,
            lambda: client.detach(block),
        ):
            assert "connect again in this one" in in_a_fork(call)

        def ends() -> None:
            channel.close()
            client.close()

        assert in_a_fork(ends) == "nothing"
        assert (channel.check(block, offsets).zero == known_ram.zero[:256]).all()
        assert client.blocks() == [block]


@FORKS
def test_a_forked_coordinator_is_its_parent_s(known_ram: KnownRam) -> None:
    offsets = [page * PAGE for page in range(256)]
    with Coordinator(1) as coordinator:
        block = coordinator.attach(f"fd:{known_ram.fd}")
        for call in (
            lambda: coordinator.check(block, offsets),
            lambda: coordinator.scan(block),
            lambda: coordinator.attach(f"fd:{known_ram.fd}"),
        ):
            assert in_a_fork(call).startswith("UsageError: the coordinator is of the process")

        def ends() -> None:
            coordinator.detach(block)
            coordinator.close()

        assert in_a_fork(ends) == "nothing"
        assert (coordinator.check(block, offsets).zero == known_ram.zero[:256]).all()


def test_a_channel_is_closed_once(service: ServiceProcess, known_ram: KnownRam) -> None:
    with Client(service.path) as client:
        first = client.open_channel()
        first.close()
        (block,) = client.attach(known_ram.fd)
        second = client.open_channel()
        first.close()
        assert second.check(block, [0]).decided.all()
        with pytest.raises(UsageError, match="channel 0: is closed"):
            first.check(block, [0])
    second.close()  # it went with its connection
