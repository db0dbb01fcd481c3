"""The real guest that the tests of this folder read."""

import os
from collections.abc import Iterator
from typing import NoReturn

import pytest

from tools.guest import Guest, MissingPiece
from tools.guest.fetch import GuestFiles, locate

REQUIRE_VARIABLE = "PAGECHECK_REQUIRE_VM"


def _no_guest(missing: MissingPiece) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{REQUIRE_VARIABLE}=1, but no guest: {missing}", pytrace=False)
    pytest.skip(f"no guest: {missing}")


@pytest.fixture(scope="session")
def guest_files() -> GuestFiles:
    """What a guest is made of; a test that boots its own asks for this to be skipped alike.

    Where something is missing, the test is skipped with a line that names it, or fails if
    PAGECHECK_REQUIRE_VM is 1.
    """
    try:
        return locate()
    except MissingPiece as missing:
        _no_guest(missing)


@pytest.fixture(scope="session")
def guest(guest_files: GuestFiles) -> Iterator[Guest]:
    """A q35 guest of 256 MiB in a RAM file, filled and paused.

    It serves the whole session: a test that resumes it pauses it again.
    """
    try:
        with Guest.boot(machine="q35", backend="file", random_mb=8, zeros_mb=8) as booted:
            booted.pause()
            yield booted
    except MissingPiece as missing:
        _no_guest(missing)
