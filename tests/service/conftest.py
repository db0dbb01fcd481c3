"""A real `pagecheck serve` for the tests of the service; what it leaves behind fails the test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.known_ram import KnownRam
from tests.support.service_fixtures import client, service, short_folder, start_service

__all__ = ["client", "service", "short_folder", "start_service"]


@pytest.fixture
def known_ram() -> Iterator[KnownRam]:
    """16 MiB in a memfd: holes, zeros, pages with one byte, random pages."""
    ram = KnownRam()
    yield ram
    ram.close()


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: other users are played by setuid")
