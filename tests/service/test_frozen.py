"""A real service that stands still: what was open goes on, and errors say what to open anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import PeerError
from pagecheck.service.requests import NoReply
from tests.support.known_ram import KnownRam
from tests.support.service import ServiceProcess, StartService
from tests.support.waiting import wait_for

SHORT_S = 0.2


def _states(pid: int) -> list[str]:
    """Of every thread."""
    tasks = Path(f"/proc/{pid}/task").glob("*/stat")
    return [task.read_text().rpartition(")")[2].split()[0] for task in tasks]


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: set(_states(pid)) == {"T"}, "every thread is stopped")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_everything_goes_on_after_a_freeze(service: ServiceProcess, known_ram: KnownRam) -> None:
    with Client(service.path) as client:
        (block,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        offsets = [4096 * page for page in range(known_ram.pages)]
        with frozen(service.pid):
            for command in ("query-stats", "query-blocks"):
                with pytest.raises(NoReply, match="in time"):
                    client.execute(command, timeout=SHORT_S)
            assert (channel.check(block, offsets).zero == known_ram.zero).all()
        assert client.stats()["channels"] == 1
        assert client.blocks() == [block]
        assert (channel.check(block, offsets).zero == known_ram.zero).all()
        another = client.open_channel()
        assert (another.check(block, offsets).zero == known_ram.zero).all()


def test_a_channel_whose_answer_was_late_is_closed(
    service: ServiceProcess, known_ram: KnownRam
) -> None:
    """So is a block; both would be there for as long as the connection lives."""
    with Client(service.path) as client:
        with frozen(service.pid):
            with pytest.raises(NoReply):
                client.execute("open-channel", {}, timeout=SHORT_S)
            with pytest.raises(NoReply):
                client.execute("attach", {"name": "late"}, [known_ram.fd], timeout=SHORT_S)
        client.stats()  # their answers come first

        def gone() -> bool:
            now = client.stats()
            return now["channels"] == 0 and now["blocks"] == 0

        wait_for(gone, "channel and block given back")
        (block,) = client.attach(known_ram.fd, name="late")
        assert client.blocks() == [block]


def test_a_frozen_worker_ends_its_channel_and_another_one_works(
    start_service: StartService, known_ram: KnownRam
) -> None:
    service = start_service("--stall", "0.5")
    offsets = [4096 * page for page in range(known_ram.pages)]
    with Client(service.path) as client:
        (block,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        (seen,) = client.stats()["sessions"][0]["channels"]
        os.kill(seen["worker"], signal.SIGSTOP)
        with pytest.raises(PeerError, match="open another"):
            channel.check(block, offsets, deadline=60)
        assert (client.open_channel().check(block, offsets).zero == known_ram.zero).all()


def test_a_killed_service_is_noticed_by_who_waits(
    service: ServiceProcess, known_ram: KnownRam
) -> None:
    """Its workers are gone, too: only the socket says so."""
    with Client(service.path) as client:
        (block,) = client.attach(known_ram.fd)
        channel = client.open_channel()
        service.kill()
        with pytest.raises(PeerError, match="connect again"):
            channel.check(block, [0], deadline=10**6)
        for _ in range(2):
            with pytest.raises(PeerError, match="connect again"):
                client.open_channel()


def test_doing_so_works(start_service: StartService, known_ram: KnownRam) -> None:
    first = start_service()
    with Client(first.path) as client:
        first.kill()
        with pytest.raises(PeerError, match="connect again"):
            client.attach(known_ram.fd)
    start_service(path=first.path)
    with Client(first.path) as client:
        (block,) = client.attach(known_ram.fd)
        assert client.open_channel().check(block, [0]).decided.all()
