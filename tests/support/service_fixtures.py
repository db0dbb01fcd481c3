"""Fixtures of a running service, for the conftest.py of folders whose tests need one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService, services


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, and which every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="pcs-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start_service(short_folder: Path) -> Iterator[StartService]:
    """Starts `pagecheck serve`: see `services`."""
    with services(short_folder) as start:
        yield start


@pytest.fixture
def service(start_service: StartService) -> ServiceProcess:
    """A service with two workers, on the CPU."""
    return start_service("--engine", "cpu")


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[RawClient]:
    """Connected to `service`, greeted."""
    with RawClient(service.path) as connected:
        connected.receive()
        yield connected
