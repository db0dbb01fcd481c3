"""Objects of stores, checked as their bytes arrive.

Reading and checking overlap: while the parts that have arrived are looked at, others are on their
way, each to a slot of the buffer, in any order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from pagecheck import clock
from pagecheck.errors import InternalError, SourceError
from pagecheck.formats import identify_by
from pagecheck.model import Counts
from pagecheck.plan import make_block
from pagecheck.snapshot.values import MANIFEST
from pagecheck.survey.stores.asking import ask, read
from pagecheck.survey.stores.buffer import shared_buffer
from pagecheck.survey.stores.manifests import bitmaps, read_manifest, require_objects
from pagecheck.survey.stores.opening import open_store
from pagecheck.survey.stores.part import CHANGED, Part
from pagecheck.survey.stores.patience import READING, Patience
from pagecheck.survey.stores.reading import Reading
from pagecheck.survey.stores.store import Store
from pagecheck.survey.stores.tally import Tally
from pagecheck.survey.strips import strip_of_saved
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
        if piece.target.kind == "snapshot":
            return self._check_snapshot(piece)
        return self._check_object(piece)

    def _check_object(self, piece: Piece) -> Found:
        started = clock.now_s()
        target, page_size = piece.target, self._options.page_size
        make_block(target.path, target.size, page_size)  # all of it is whole pages
        make_block(target.path, target.size, page_size, piece.start, piece.length)
        store = open_store(_url(target))
        name = store.name_of(_url(target))
        tally = Tally(target.size, page_size, pictures=self._options.pictures)
        buffer, block = self._attached()
        ways = (self._patience, self._is_closed, self._options.max_rate)
        with Reading(store, name, piece, buffer, *ways) as reading:
            for arrived in reading.parts():
                for _slot, part in arrived:
                    if part.start == 0 and self._options.format == "auto":
                        tally.note = self._require_raw(store, part, target)
                self._look(buffer, block, arrived, tally)
        self._require_same(store, name, target)
        return Found(
            piece,
            tally.counts,
            piece.length,
            clock.now_s() - started,
            settled=target.identity != "",
            note=tally.note,
            strip=tally.strip,
        )

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
        self, buffer: Buffer, block: Block, arrived: list[tuple[int, Part]], tally: Tally
    ) -> None:
        """Decides the pages of parts that have arrived; all at once, so that the worker, which has
        to wake up, and this thread, which has to wait for the interpreter's lock, do so once."""
        page_size = self._options.page_size
        wanted = []
        for slot, part in arrived:
            if part.left:
                raise InternalError(f"{part.name}: {part.left} bytes of a part are missing")
            begin = buffer.offset(slot)
            wanted.append(np.arange(begin, begin + len(part.view), page_size))
        answer = self._coordinator.check(block, np.concatenate(wanted).astype(np.uint64))
        done = 0
        for (_slot, part), offsets in zip(arrived, wanted, strict=True):
            end = done + len(offsets)
            tally.add(part.start // page_size, answer.zero[done:end], answer.decided[done:end])
            done = end
        tally.note = tally.note or next(iter(answer.notes), None)

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

    def _check_snapshot(self, piece: Piece) -> Found:
        """What its manifest says; every object that belongs to it is there."""
        started = clock.now_s()
        target, path, patience = piece.target, piece.target.path, self._patience
        store = open_store(_url(target))
        name = store.name_of(f"{_url(target)}/{MANIFEST}")
        info = ask(path, lambda: store.info(name), patience)
        identity = target.identity or store.identity_of(info)
        snapshot = read_manifest(store, name, info["size"], identity, patience)
        if snapshot is None or store.identity_of(info) != identity:
            raise SourceError(f"{path}: {CHANGED}")
        prefix = name.removesuffix(MANIFEST)
        require_objects(store, prefix, snapshot, patience)
        strip = None
        if self._options.pictures and (zero := bitmaps(store, prefix, snapshot, patience)):
            strip = strip_of_saved(snapshot, zero)
        zero_pages = sum(block.zero for block in snapshot.blocks)
        normal = sum(block.normal for block in snapshot.blocks)
        counts = Counts(zero_pages + normal, zero=zero_pages, hole=zero_pages, normal=normal)
        settled, seconds = target.identity != "", clock.now_s() - started
        return Found(piece, counts, 0, seconds, settled=settled, strip=strip)


def _url(target: Target) -> str:
    """Where it is read from."""
    return target.address or target.path
