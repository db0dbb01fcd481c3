"""What the hostile tests share: what a service weighs, a witness beside it, and its workers."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil

from pagecheck import Client
from tests.support.bitmaps import bits
from tests.support.known_ram import KnownRam
from tests.support.leftovers import open_fds
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess
from tests.support.waiting import wait_for

MIB = 1 << 20


def fds(pid: int) -> int:
    return len(open_fds(pid))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def resident(service: ServiceProcess) -> int:
    """Bytes that the service and its workers keep in memory."""
    total = 0
    for process in (psutil.Process(service.pid), *service.children()):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def figures(service: ServiceProcess) -> tuple[int, int, tuple[int, ...]]:
    """Descriptors, threads and children."""
    children = tuple(sorted(each.pid for each in service.children()))
    return fds(service.pid), threads(service.pid), children


def at_rest(service: ServiceProcess) -> tuple[int, int, tuple[int, ...]]:
    """The figures once nobody comes or goes: the same fifty times in a row."""
    seen: list[Any] = []

    def is_stable() -> bool:
        seen.append(figures(service))
        return len(seen) >= 50 and len(set(seen[-50:])) == 1

    wait_for(is_stable, "the service at rest")
    return figures(service)


@contextlib.contextmanager
def as_before(service: ServiceProcess, grows: int = 48 * MIB) -> Iterator[None]:
    """Afterwards the service has the descriptors, threads and children that it had before, and not
    much more memory."""
    before, memory = at_rest(service), resident(service)
    yield
    last: list[Any] = []

    def returned() -> bool:
        last[:] = [figures(service)]
        return bool(last[0] == before)

    with contextlib.suppress(BaseException):
        wait_for(returned, "as before", 10)
    assert last[0] == before, f"descriptors, threads, children: {before}, now {last[0]}"
    assert resident(service) - memory < grows
    assert service.process.poll() is None


@contextlib.contextmanager
def greeted(path: str) -> Iterator[RawClient]:
    """A client by hand that has read its greeting."""
    with RawClient(path) as client:
        assert "pagecheck" in client.receive()[0]
        yield client


def connected(path: str) -> RawClient:
    """As `greeted`; the caller closes it."""
    client = RawClient(path)
    try:
        assert "pagecheck" in client.receive()[0]
    except BaseException:
        client.close()
        raise
    return client


def await_goodbye(client: RawClient, seconds: float = 15.0) -> list[dict[str, Any]]:
    """Reads until the service hangs up; what it said on the way."""
    client.socket.settimeout(seconds)
    said = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            message, fds = client.receive()
            for fd in fds:
                os.close(fd)
            said.append(message)
    return said


class Witness:
    """A second client that checks a block and a direct channel the whole time.

    Attributes:
        rounds: checks that were right.
        longest: seconds of the longest one.
    """

    def __init__(self, path: str, *, channel: bool = False) -> None:
        self.rounds = 0
        self.longest = 0.0
        self.error: BaseException | None = None
        self._path = path
        self._with_channel = channel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        ram = KnownRam(512, seed=5)
        offsets = np.arange(ram.pages, dtype=np.uint64) * np.uint64(4096)
        try:
            with Client(self._path) as client:
                (block,) = client.attach(ram.fd)
                channel = client.open_channel() if self._with_channel else None
                while not self._ended.is_set():
                    started = time.monotonic()
                    found = client.check([block]).blocks[0]
                    np.testing.assert_array_equal(bits(found.zero, ram.pages), ram.zero)
                    np.testing.assert_array_equal(bits(found.normal, ram.pages), ~ram.zero)
                    if channel is not None:
                        answer = channel.check(block, offsets, deadline=20)
                        assert answer.decided.all(), answer.notes
                        np.testing.assert_array_equal(answer.zero, ram.zero)
                    self.longest = max(self.longest, time.monotonic() - started)
                    self.rounds += 1
                if channel is not None:
                    channel.close()
        except BaseException as error:
            self.error = error
        finally:
            ram.close()

    def __enter__(self) -> Witness:
        self._thread.start()
        self.await_rounds(1)
        return self

    def await_rounds(self, more: int) -> None:
        """Waits until it has been served that many times more."""
        target = self.rounds + more
        wait_for(lambda: self.rounds >= target or self.error, "the witness is served", 10)

    def __exit__(self, kind: Any, *_error: object) -> None:
        if kind is None:
            self.await_rounds(2)
        self._ended.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the witness waits for ever"
        if self.error is not None:
            raise self.error
