"""A RAM block that is attached to a coordinator."""

from __future__ import annotations

import threading

from pagecheck.coordinator.settings import check_choice
from pagecheck.errors import UsageError
from pagecheck.model import Access, Holes, RamBlock
from pagecheck.plan import make_block
from pagecheck.shm.ram import RamSource


class Block:
    """One RAM block: its source, and how workers may look at it.

    Attributes:
        id: what requests in the rings call it.
        ram: name, size, page size and start in the file.
        source: the open file.
        detached: nobody may begin to use it any more.
        map: workers map it; else they read it.
        holes: whether the file system's holes may be trusted, as the user said.
        file_end: byte offset in the file where it ends.
    """

    def __init__(
        self, block_id: int, source: RamSource, ram: RamBlock, holes: Holes, access: Access
    ) -> None:
        """Decides how the block is looked at.

        Args:
            access: `map` or `read`; `auto` maps where that is safe.

        Raises:
            UsageError: mapping was asked for where it is not safe.
        """
        check_choice("holes", holes, Holes)
        check_choice("access", access, Access)
        can_map = source.can_map(ram.start, ram.size)
        if access == "map" and not can_map:
            raise UsageError(
                f"{source.text}: cannot be mapped without changing it on this file system; "
                "use access='read'"
            )
        self.id = block_id
        self.detached = False
        self._users = 0
        self._lock = threading.Lock()
        self.ram = ram
        self.source = source
        self.holes = holes
        self.trust_holes = holes == "trust" and source.holes_are_proof
        self.map = can_map and access != "read"
        self.file_end = ram.start + ram.size
        self._flags = source.flags(trust_holes=self.trust_holes)
        self._dense_bytes = source.dense_bytes() if self.map else 0

    @property
    def fd(self) -> int:
        """The source's descriptor, -1 once it is closed."""
        return self.source.fd

    def attach_message(self) -> dict[str, object]:
        """What a worker needs to know beside the descriptor."""
        return {
            "block": self.id,
            "start": self.ram.start,
            "size": self.ram.size,
            "page_size": self.ram.page_size,
            "flags": self._flags,
            "dense_bytes": self._dense_bytes,
            "map": self.map,
        }

    def is_dense(self) -> bool:
        """Whether the file has no hole, as far as that can be told without a walk: then a walk
        would only cost time, and a hole that comes is read as the zeros it is."""
        return self.source.looks_dense

    def pages_inside(self, file_size: int) -> int:
        """Whole pages of the block that lie inside a file of that size."""
        inside = min(max(file_size - self.ram.start, 0), self.ram.size)
        return inside // self.ram.page_size

    def require_attached(self) -> None:
        """Raises UsageError after the block was detached."""
        if self.detached:
            raise UsageError(f"block {self.ram.name}: is detached")

    def begin_use(self) -> None:
        """Keeps the source open until `end_use`.

        Raises:
            UsageError: the block is detached.
        """
        with self._lock:
            self.require_attached()
            self._users += 1

    def end_use(self) -> None:
        """The counterpart of `begin_use`; the last user of a detached block closes its source."""
        with self._lock:
            self._users -= 1
            if self.detached and not self._users:
                self.source.close()

    def detach(self) -> None:
        """No new use from now on; the source is closed when nobody uses it any more."""
        with self._lock:
            self.detached = True
            if not self._users:
                self.source.close()


def new_block(
    block_id: int,
    source: RamSource,
    page_size: int,
    offset: int,
    length: int | None,
    holes: Holes,
    access: Access,
) -> Block:
    """Checks the numbers and makes the block; `plan.make_block` says what it raises."""
    ram = make_block(source.name, source.size, page_size, offset, length)
    return Block(block_id, source, ram, holes, access)
