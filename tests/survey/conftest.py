"""Servers that the tests of stores share."""

from collections.abc import Iterator

import pytest

from pagecheck import Coordinator
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
    with RangeServer() as server:
        yield server


@pytest.fixture(scope="session")
def coordinator() -> Iterator[Coordinator]:
    """One worker for all tests of a module."""
    with Coordinator(1) as started:
        yield started
