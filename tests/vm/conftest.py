"""The real guest that the tests of this folder read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guests import booted, located
from tests.vm.bare_qemu import BareQemu, bare_qemu
from tools.guest import Guest
from tools.guest.fetch import GuestFiles


@pytest.fixture(scope="session")
def guest_files() -> GuestFiles:
    """What a guest is made of; a test that boots its own asks for this to be skipped alike.

    Where something is missing, the test is skipped with a line that names it, or fails if
    PAGECHECK_REQUIRE_VM is 1.
    """
    return located()


@pytest.fixture(scope="session")
def qemu10() -> Path:
    """The program of QEMU 10; skipped, or failed, as above."""
    return located(qemu="10").qemu


@pytest.fixture
def qemu(guest_files: GuestFiles) -> Iterator[BareQemu]:
    """Runs its firmware, in private RAM; some files have another."""
    with bare_qemu(size="64M") as running:
        running.own_events()
        yield running


@pytest.fixture(scope="package")
def guest(guest_files: GuestFiles) -> Iterator[Guest]:
    """A q35 guest of 256 MiB in a RAM file, filled and paused.

    It serves the whole folder: a test that resumes it pauses it again.
    """
    with booted(machine="q35", backend="file", random_mb=4, zeros_mb=4) as guest:
        guest.pause()
        yield guest
