"""What a save did, as callers get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck.model import Counts

if TYPE_CHECKING:
    from pagecheck.model import Pause, RamBlock

JSON_VERSION: Final = 1


class SavedBlock(NamedTuple):
    """One RAM block of a snapshot.

    Attributes:
        file: name of its RAM file in the directory.
        bytes_stored: bytes of the pages that were written to it; the file's where it is compressed.
    """

    block: RamBlock
    counts: Counts
    file: str
    bytes_stored: int

    def to_json(self) -> dict[str, Any]:
        """This block's entry in the JSON report."""
        return {
            "name": self.block.name,
            "bytes": self.block.size,
            **self.counts._asdict(),
            "file": self.file,
            "bytes_stored": self.bytes_stored,
        }


class SaveReport(NamedTuple):
    """The result of `pagecheck.save`.

    Attributes:
        source: what was saved, as the user named it.
        directory: the snapshot.
        exact: the RAM provably did not change while it was copied; False is possible only for a
            file that was saved with `live`.
        seconds: whole duration, start-up included.
        pause: how the VM was stopped for it; None for a file.
        pause_without_live: seconds that the VM would have been stopped had nothing been copied
            before, at the rate of the copy that was made before; None where that was not so, or
            the VM was stopped already.
        bytes_stored: of all files of the snapshot; of sparse RAM files the pages that were written.
        state_bytes: size of the devices' state; 0 where there is none.
        overlays: the files that the VM's disks are written to from now on, by disk.
        ended: the VM was ended once the snapshot was safe.
        notes: one line each on what a user should know.
    """

    source: str
    directory: str
    exact: bool
    engine: str
    kernel: str | None
    channels: int
    page_size: int
    seconds: float
    blocks: tuple[SavedBlock, ...]
    pause: Pause | None = None
    pause_without_live: float | None = None
    bytes_stored: int = 0
    state_bytes: int = 0
    overlays: tuple[tuple[str, str], ...] = ()
    ended: bool = False
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> Counts:
        """Counts over all blocks."""
        return Counts.sum(block.counts for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """The report as the JSON document that `--json` prints."""
        without = self.pause_without_live
        return {
            "version": JSON_VERSION,
            "source": self.source,
            "directory": self.directory,
            "exact": self.exact,
            "engine": self.engine,
            "kernel": self.kernel,
            "channels": self.channels,
            "page_size": self.page_size,
            "seconds": round(self.seconds, 6),
            "blocks": [block.to_json() for block in self.blocks],
            "total": self.total._asdict(),
            "pause": None if self.pause is None else self.pause._asdict(),
            "pause_without_live": None if without is None else round(without, 6),
            "bytes_stored": self.bytes_stored,
            "state_bytes": self.state_bytes,
            "overlays": [{"disk": disk, "file": file} for disk, file in self.overlays],
            "ended": self.ended,
            "notes": list(self.notes),
        }
