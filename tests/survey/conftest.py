"""Folders for surveys, and servers that the tests of stores share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import Coordinator
from pagecheck.native import _native
from pagecheck.shm.ram import TMPFS
from tests.support.file_systems import mounted
from tests.support.needs import needs_library
from tests.support.range_server import RangeServer
from tests.support.s3 import Bucket, s3_server


@pytest.fixture(scope="package")
def _s3() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def bucket(_s3: Bucket) -> Iterator[Bucket]:
    """An empty bucket of a real S3 server, and the proxy before it, which breaks nothing yet."""
    _s3.proxy.reset()
    _s3.empty()
    yield _s3
    _s3.proxy.reset()


@pytest.fixture
def web() -> Iterator[RangeServer]:
    """A web server without files."""
    needs_library("aiohttp", "survey")
    needs_library("fsspec", "survey")
    with RangeServer() as server:
        yield server


@pytest.fixture(scope="session")
def coordinator() -> Iterator[Coordinator]:
    """One worker for all tests of a module."""
    with Coordinator(1) as started:
        yield started


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder where whoever writes to a file changes its times, which shared memory does not."""
    if not _is_shared_memory(tmp_path):
        yield tmp_path
        return
    with mounted(tmp_path, "ext4", "64M") as at:
        yield at


def _is_shared_memory(folder: Path) -> bool:
    (folder / "empty").touch()
    with open(folder / "empty", "rb") as file:
        magic = _native.file_system_magic(file.fileno())
    (folder / "empty").unlink()
    return magic == TMPFS
