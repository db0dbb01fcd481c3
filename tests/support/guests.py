"""Real guests for tests; where the machine lacks something for them, a test skips or fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.support.needs import unavailable
from tools.guest import Guest, MissingPiece
from tools.guest.fetch import GuestFiles, locate


@contextlib.contextmanager
def pieces_or_skip() -> Iterator[None]:
    """A missing piece skips the test with a line that names it, or fails it if REQUIRE is 1."""
    try:
        yield
    except MissingPiece as missing:
        unavailable(f"no guest: {missing}")


def located(*, disk: bool = False, qemu: str = "") -> GuestFiles:
    """What a guest is made of; see `tools.guest.fetch.locate`."""
    with pieces_or_skip():
        return locate(disk=disk, qemu=qemu)


@contextlib.contextmanager
def booted(**asked: Any) -> Iterator[Guest]:
    """A guest that runs; see `Guest.boot` for what may be asked."""
    with pieces_or_skip(), Guest.boot(**asked) as guest:
        yield guest
