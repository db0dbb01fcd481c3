"""What `pagecheck.punch` did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from pagecheck.model import Pause

JSON_VERSION: Final = 1

Proof = Literal["lease", "pause", "user"]


class PunchedBlock(NamedTuple):
    """One file, or one RAM block of a VM.

    Attributes:
        size: bytes.
        unit_bytes: the smallest hole that was made: the page size, or the block size of the file
            system or of the huge pages where that is larger.
        zero_bytes: what was found to be zero, and is a hole now; in a dry run, what would be.
        allocated_before, allocated_after: bytes that its file had allocated.
    """

    name: str
    size: int
    unit_bytes: int
    zero_bytes: int
    allocated_before: int
    allocated_after: int

    @property
    def freed_bytes(self) -> int:
        """What the host has back: the difference of what the file had allocated."""
        return self.allocated_before - self.allocated_after

    def to_json(self) -> dict[str, Any]:
        """This block's entry in the JSON report."""
        return {
            "name": self.name,
            "bytes": self.size,
            "unit_bytes": self.unit_bytes,
            "zero_bytes": self.zero_bytes,
            "allocated_before": self.allocated_before,
            "allocated_after": self.allocated_after,
            "freed_bytes": self.freed_bytes,
        }


class PunchReport(NamedTuple):
    """The result of a punch.

    Attributes:
        source: as the user named it.
        proof: what kept writers away: a write lease on the file, the pause of the VM, or nothing
            but the user's word.
        dry_run: whether nothing was changed.
        seconds: whole duration.
        why_incomplete: why part of it was left as it was; None: all of it was looked at.
        pause: how the VM was stopped for it; None for a file.
        notes: one line each on what a user should know.
    """

    source: str
    proof: Proof
    dry_run: bool
    seconds: float
    blocks: tuple[PunchedBlock, ...]
    why_incomplete: str | None = None
    pause: Pause | None = None
    notes: tuple[str, ...] = ()

    @property
    def zero_bytes(self) -> int:
        """Of all blocks."""
        return sum(block.zero_bytes for block in self.blocks)

    @property
    def freed_bytes(self) -> int:
        """Of all blocks."""
        return sum(block.freed_bytes for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values; docs/json.md documents them."""
        return {
            "version": JSON_VERSION,
            "source": self.source,
            "proof": self.proof,
            "dry_run": self.dry_run,
            "seconds": self.seconds,
            "zero_bytes": self.zero_bytes,
            "freed_bytes": self.freed_bytes,
            "why_incomplete": self.why_incomplete,
            "blocks": [block.to_json() for block in self.blocks],
            "pause": None if self.pause is None else self.pause._asdict(),
            "notes": list(self.notes),
        }
