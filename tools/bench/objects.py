"""An object of a store on this machine, checked as it comes, against readers that only read it.

The server is one of our own that sends a file with sendfile(2): a real one would be the limit of
all that is compared here.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from pagecheck import Coordinator
from pagecheck.survey.stores import Objects, targets
from pagecheck.survey.values import Options, Piece, Target
from tools.bench.rows import Row

SIZE: Final = 1 << 30
PART: Final = 16 << 20
AT_ONCE: Final = 16
URL: Final = "s3://bench/ram"
CASE: Final = "1 GiB, half of the pages zero, from a server on this machine"


@contextlib.contextmanager
def served() -> Iterator[int]:
    """The port of a server that has the object; our own environment says that it is S3."""
    path = Path(f"/dev/shm/pagecheck-bench-{os.getpid()}-object")
    ram = np.zeros((SIZE // 4096, 4096), np.uint8)
    ram[::2] = 0x55
    path.write_bytes(ram.data)
    del ram
    command = [sys.executable, "-m", "tools.bench.object_server", str(path)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with _environment(port):
                yield port
            server.terminate()
    finally:
        path.unlink()


@contextlib.contextmanager
def _environment(port: int) -> Iterator[None]:
    ours = {
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _in_threads(read: Callable[[Iterator[int]], None]) -> None:
    """Has several threads share the ranges: each gets those whose turn it is, as their starts."""
    starts = iter(range(0, SIZE, PART))
    lock = threading.Lock()

    def taken() -> Iterator[int]:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            yield start

    threads = [threading.Thread(target=read, args=(taken(),)) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def unsigned(port: int) -> None:
    """By http.client, into a buffer of each thread; nothing is signed, as a real S3 wants it."""

    def read(starts: Iterator[int]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        buffer = memoryview(bytearray(PART))
        for start in starts:
            headers = {"Range": f"bytes={start}-{start + PART - 1}"}
            connection.request("GET", "/bench/ram", headers=headers)
            answer, got = connection.getresponse(), 0
            while got < PART:
                got += answer.readinto(buffer[got:])
            answer.read()
        connection.close()

    _in_threads(read)


def signed(client: Any) -> None:
    """By botocore's client."""

    def read(starts: Iterator[int]) -> None:
        for start in starts:
            asked = f"bytes={start}-{start + PART - 1}"
            client.get_object(Bucket="bench", Key="ram", Range=asked)["Body"].read()

    _in_threads(read)


def _client() -> Any:
    import botocore.session
    from botocore.config import Config

    config = Config(max_pool_connections=2 * AT_ONCE)
    return botocore.session.Session().create_client("s3", config=config)


class Bare:
    """s3fs, the same ranges and as many at once; what comes is dropped."""

    def __init__(self) -> None:
        """Opens it; it stays open for all repeats, as ours does."""
        import fsspec

        options = {"max_pool_connections": 64}
        self._fs: Any = fsspec.filesystem("s3", config_kwargs=options, skip_instance_cache=True)

    def read(self) -> None:
        """Reads the object once."""
        asyncio.run_coroutine_threadsafe(self._all(), self._fs.loop).result()

    async def _all(self) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(start: int) -> None:
            async with turn:
                await self._fs._cat_file("bench/ram", start=start, end=start + PART)

        await asyncio.gather(*map(one, range(0, SIZE, PART)))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run(repeats: int) -> list[Row]:
    """Measures them; one read of each, which opens its connections, comes first."""
    with served() as port, Coordinator(1) as coordinator:
        (target,) = targets(URL)
        if not isinstance(target, Target):
            raise RuntimeError(target)
        objects, bare = Objects(coordinator, Options(in_flight=AT_ONCE * PART)), Bare()
        client = _client()
        ways: dict[str, Callable[[], object]] = {
            "ours": lambda: objects.check(Piece(target, 0, SIZE)),
            "the same ranges by botocore in 16 threads": lambda: signed(client),
            "the same ranges by s3fs": bare.read,
            "the same ranges by http.client in 16 threads, unsigned": lambda: unsigned(port),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for each in range(repeats + 1):
            for name, work in ways.items():
                seconds = _seconds(work)
                if each:
                    took[name].append(seconds)
    ours = took.pop("ours")
    return [
        Row.of_seconds(
            ours,
            theirs,
            what="an object of S3, every page decided",
            case=CASE,
            detail="peers drop what comes",
            peer=name,
            aim=0.9,
            limited_by="Python: 1 ms to sign each request; the server on the same two CPUs",
        )
        for name, theirs in took.items()
    ]
