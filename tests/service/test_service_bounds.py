"""What is bounded in the service: answers, deadlines, ends, places."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest

from pagecheck import Client
from pagecheck.errors import LimitError, UsageError
from pagecheck.model import Region
from tests.support.known_ram import KnownRam
from tests.support.rams import PAGE
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for


def sparse(pages: int) -> int:
    fd = os.memfd_create("sparse")
    os.ftruncate(fd, pages * PAGE)
    return fd


def test_many_regions_do_not_stop_the_status(service: ServiceProcess) -> None:
    fd = sparse(1024)
    regions = [Region(2 * i * PAGE, PAGE, 0, i * PAGE) for i in range(1024)]
    with Client(service.path) as owner, Client(service.path) as other:
        for number in range(8):
            owner.attach(fd, name=f"{number}" + "x" * 100, regions=regions)
        assert len(owner.blocks()[7].regions) == 1024
        (seen,) = [s for s in other.stats()["sessions"] if s["blocks"]]
        assert len(seen["blocks"]) == 8
    os.close(fd)


def test_a_deadline_is_for_all_blocks(service: ServiceProcess) -> None:
    rams = [KnownRam(2000, seed=n, kinds=["first"]) for n in range(3)]
    with Client(service.path) as client:
        blocks = [client.attach(ram.fd, name=f"b{n}")[0] for n, ram in enumerate(rams)]
        begun = time.monotonic()
        checked = client.check(blocks, deadline=0.4, max_rate=1 << 20)
        assert time.monotonic() - begun < 0.4 * 2.5
        assert all(block.counts.undecided for block in checked.blocks)
        assert checked.blocks[2].counts.undecided == 2000
    for ram in rams:
        ram.close()


def test_a_client_that_reads_nothing_does_not_delay_the_end(service: ServiceProcess) -> None:
    with RawClient(service.path) as deaf:
        deaf.receive()
        deaf.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # both directions are full then
            while True:
                deaf.socket.send(b'{"execute": "query-stats"}\n' * 100)
        begun = time.monotonic()
        assert service.stop(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 4


@pytest.mark.parametrize(
    "line",
    [b'{"execute": "query-blocks", "id": NaN}', b'{"execute": "query-blocks", "id": -Infinity}'],
)
def test_what_is_no_json_is_not_echoed(client: RawClient, line: bytes) -> None:
    client.socket.sendall(line + b"\n")
    assert client.receive()[0]["error"]["class"] == "PeerError"


def test_a_region_past_the_last_address(service: ServiceProcess) -> None:
    fd = sparse(4)
    with Client(service.path) as client, pytest.raises(UsageError, match=r"regions\[0\]"):
        client.attach(fd, regions=[Region((1 << 64) - PAGE, 2 * PAGE, 0, 0)])
    os.close(fd)


def test_places_are_limited(start_service) -> None:
    service = start_service("--max-clients", 3)
    clients = [Client(service.path) for _ in range(3)]
    with pytest.raises(LimitError, match="3 clients"):
        Client(service.path)
    clients.pop().close()

    def let_in() -> bool:
        try:
            clients.append(Client(service.path))
        except LimitError:
            return False
        return True

    wait_for(let_in, "a place that became free")
    for client in clients:
        client.close()


def test_a_block_as_large_as_the_address_space_is_refused(service: ServiceProcess) -> None:
    fd = sparse(1 << 50)
    with Client(service.path) as client, pytest.raises(LimitError, match="max-block-size"):
        client.attach(fd)
    os.close(fd)


def test_names_of_every_kind(service: ServiceProcess, short_folder) -> None:
    for name in ("a\nb", "x" * 200, "\udcff.ram", "ünïcode"):
        path = f"/dev/shm/{name}-{os.getpid()}"[:250]
        with open(path, "wb") as file:
            file.truncate(4 * PAGE)
        try:
            with Client(service.path) as client:
                assert client.scan(path).total.zero == 4
        finally:
            os.unlink(path)
