"""A punch by a service: the report of what it did to a VM's RAM, once it is checked."""

from __future__ import annotations

from typing import Any

from pagecheck.errors import UsageError
from pagecheck.model import is_vm_source
from pagecheck.service.replies import SIZE_MAX, Members, pause_of
from pagecheck.snapshot.punch_report import PunchedBlock, PunchReport


def require_vm(source: str) -> None:
    """Raises UsageError where there is nothing that a service has to do."""
    if not is_vm_source(source):
        raise UsageError(f"{source}: is a file, which is punched without a service")


def punched(reply: dict[str, Any], source: str, *, dry_run: bool, seconds: float) -> PunchReport:
    """The answer to `punch`.

    Args:
        source: as the user named it.
        seconds: that it took.

    Raises:
        PeerError: it is invalid.
    """
    given = Members(reply, "the answer to punch")
    pause = None if reply.get("pause") is None else pause_of(given.object("pause"))
    return PunchReport(
        source,
        "pause",
        dry_run,
        seconds,
        tuple(given.each("blocks", _block)),
        given.text_or_none("why_incomplete"),
        pause,
        given.texts("notes"),
    )


def _block(given: Members) -> PunchedBlock:
    names = ("unit_bytes", "zero_bytes", "allocated_before", "allocated_after")
    size = given.integer("bytes", 1, SIZE_MAX)
    numbers = {name: given.integer(name, 0, SIZE_MAX) for name in names}
    return PunchedBlock(name=given.text("name"), size=size, **numbers)
