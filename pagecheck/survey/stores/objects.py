"""Objects of stores, checked as their bytes arrive.

Reading and checking overlap: while the parts that have arrived are looked at, others are on their
way, each to a slot of the buffer, in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pagecheck import clock
from pagecheck.coordinator.block import CHECK_PAGES_MAX
from pagecheck.errors import InternalError, SourceError
from pagecheck.formats import identify_by
from pagecheck.model import Counts
from pagecheck.plan import make_block
from pagecheck.survey.stores.asking import ask, read
from pagecheck.survey.stores.buffer import shared_buffer
from pagecheck.survey.stores.manifests import read_manifest, require_objects
from pagecheck.survey.stores.opening import open_store
from pagecheck.survey.stores.part import CHANGED, Part
from pagecheck.survey.stores.patience import READING, Patience
from pagecheck.survey.stores.reading import Reading
from pagecheck.survey.stores.store import Store
from pagecheck.survey.values import Found, Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.survey.stores.buffer import Buffer
    from pagecheck.survey.values import Piece, Target

_DEFAULTS: Final = Options()


class Objects:
    """Checks pieces of objects by one coordinator; one thread at a time."""

    def __init__(
        self,
        coordinator: Coordinator,
        options: Options = _DEFAULTS,
        is_closed: Callable[[], bool] = lambda: False,
        *,
        patience: Patience = READING,
    ) -> None:
        """Allocates nothing yet.

        Args:
            is_closed: whether to stop; asked several times a second, by any thread.
            patience: how long a store that fails is tried again.
        """
        self._coordinator = coordinator
        self._options = options
        self._patience = patience
        self._buffer: Buffer | None = None
        self._block: Block | None = None
        self._is_closed = is_closed

    def check(self, piece: Piece) -> Found:
        """Decides the pages of a piece.

        Raises:
            SourceError: the object cannot be read, or is another one than was found.
            SnapshotError: a snapshot is damaged, or not whole.
            PagecheckError: there is a shortage, or no worker is left.
        """
        started = clock.now_s()
        store = open_store(_url(piece.target))
        if piece.target.kind == "snapshot":
            counts, note = self._check_snapshot(store, piece.target), None
        else:
            counts, note = self._check_object(store, piece)
        read_bytes = 0 if piece.target.kind == "snapshot" else piece.length
        settled = piece.target.identity != ""
        return Found(piece, counts, read_bytes, clock.now_s() - started, settled, note)

    def _check_object(self, store: Store, piece: Piece) -> tuple[Counts, str | None]:
        target, page_size = piece.target, self._options.page_size
        make_block(target.path, target.size, page_size)  # all of it is whole pages
        make_block(target.path, target.size, page_size, piece.start, piece.length)
        name = store.name_of(_url(target))
        buffer, block = self._attached()
        counts, note = Counts(), None
        reading = Reading(
            store,
            name,
            piece,
            buffer,
            self._patience,
            self._is_closed,
            self._options.max_rate,
        )
        with reading:
            for slot, part in reading.parts():
                if part.start == 0 and self._options.format == "auto":
                    note = self._require_raw(store, part, target) or note
                found, why = self._look(buffer, block, slot, part)
                counts, note = Counts.sum((counts, found)), note or why
        self._require_same(store, name, target)
        return counts, note

    def _attached(self) -> tuple[Buffer, Block]:
        if self._buffer is None or self._block is None:
            page_size = self._options.page_size
            self._buffer = shared_buffer(self._options.in_flight, page_size)
            # Mapped, and without holes: what is looked at is what was written here.
            self._block = self._coordinator.attach(
                f"fd:{self._buffer.fd}",
                page_size=page_size,
                holes="read",
                access="map",
                format="raw",
            )
        return self._buffer, self._block

    def _look(
        self, buffer: Buffer, block: Block, slot: int, part: Part
    ) -> tuple[Counts, str | None]:
        """What a part that has arrived holds, and why pages of it are undecided."""
        if part.left:
            raise InternalError(f"{part.name}: {part.left} bytes of a part are missing")
        page_size = self._options.page_size
        begin, pages = buffer.offset(slot), len(part.view) // page_size
        offsets = np.arange(begin, begin + pages * page_size, page_size).astype(np.uint64)
        zero = decided = 0
        notes: list[str] = []
        for first in range(0, pages, CHECK_PAGES_MAX):  # as many as one channel takes at once
            answer = self._coordinator.check(block, offsets[first : first + CHECK_PAGES_MAX])
            zero += int(np.count_nonzero(answer.zero & answer.decided))
            decided += int(np.count_nonzero(answer.decided))
            notes += answer.notes
        counts = Counts(pages, zero=zero, normal=decided - zero, undecided=pages - decided)
        return counts, notes[0] if notes else None

    def _require_raw(self, store: Store, head: Part, target: Target) -> str | None:
        """The note on an object that may be something else.

        Raises:
            SourceError: it is certainly something else than raw RAM, or cannot be read.
        """

        def at(size: int, offset: int) -> bytes:
            found = bytearray(min(size, max(target.size - offset, 0)))
            part = Part(head.name, target.identity, target.size, offset, memoryview(found))
            read(store, part, target.path, self._patience, self._is_closed)
            return bytes(found)

        from pagecheck.formats import HEAD_BYTES

        looks = identify_by(bytes(head.view[:HEAD_BYTES]), target.size, at)
        if looks is None:
            return None
        from pagecheck.formats.found import note, refusal

        if looks.doubt is None:
            raise SourceError(refusal(target.path, looks))
        return note(target.path, looks)

    def _require_same(self, store: Store, name: str, target: Target) -> None:
        """Where the answers themselves do not prove it: asks what the object is by now.

        Raises:
            SourceError: it is another one than was listed.
        """
        if store.is_conditional or not target.identity:
            return
        info = ask(target.path, lambda: store.info(name), self._patience)
        if store.identity_of(info) != target.identity:
            raise SourceError(f"{target.path}: {CHANGED}")

    def _check_snapshot(self, store: Store, target: Target) -> Counts:
        """What its manifest says; every object that belongs to it is there."""
        from pagecheck.snapshot.values import MANIFEST

        prefix = store.name_of(f"{_url(target)}/{MANIFEST}").removesuffix(MANIFEST)
        name, path, patience = f"{prefix}{MANIFEST}", target.path, self._patience
        info = ask(path, lambda: store.info(name), patience)
        identity = target.identity or store.identity_of(info)
        snapshot = read_manifest(store, name, info["size"], identity, patience)
        if snapshot is None or store.identity_of(info) != identity:
            raise SourceError(f"{path}: {CHANGED}")
        require_objects(store, prefix, snapshot, patience)
        zero = sum(block.zero for block in snapshot.blocks)
        normal = sum(block.normal for block in snapshot.blocks)
        return Counts(zero + normal, zero=zero, hole=zero, normal=normal)


def _url(target: Target) -> str:
    """Where it is read from."""
    return target.address or target.path
