"""Snapshots that `save` made and somebody copied to a store: what their manifests say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pagecheck.errors import SnapshotError
from pagecheck.snapshot.entries import checksum
from pagecheck.snapshot.manifest import MANIFEST_BYTES_MAX, parse
from pagecheck.snapshot.values import MANIFEST
from pagecheck.survey.stores.asking import ask, read, several
from pagecheck.survey.stores.part import Part
from pagecheck.survey.urls import shown

if TYPE_CHECKING:
    from pagecheck.snapshot.values import Snapshot
    from pagecheck.survey.stores.patience import Patience
    from pagecheck.survey.stores.store import Store

_START_BYTES: Final = 100  # where its checksum is
_BITMAPS_MAX: Final = 64 << 20  # bytes: 2 TiB of RAM


def read_manifest(
    store: Store, name: str, size: int, identity: str, patience: Patience
) -> Snapshot | None:
    """What a manifest says; None: it is another program's.

    Args:
        name: the object, as the store's library calls it.
        size, identity: as it was listed.

    Raises:
        SourceError: it cannot be read.
        SnapshotError: it is damaged, or of a version that is not known.
    """
    if not 0 < size <= MANIFEST_BYTES_MAX:
        return None
    path = shown(store.url_of(name))
    text = bytearray(size)
    part = Part(name, identity, size, 0, memoryview(text))
    read(store, part, path, patience, lambda: False)
    if b'"xxh3-128:' not in text[:_START_BYTES]:
        return None
    return parse(bytes(text), path)


def require_objects(store: Store, prefix: str, snapshot: Snapshot, patience: Patience) -> None:
    """Checks that every object of a snapshot is there, and as large as it must be.

    Args:
        prefix: what their names begin with, as the store's library calls them.

    Raises:
        SnapshotError: one is missing, or has another size.
        SourceError: the store does not say.
    """

    def size_of(name: str) -> int:
        path = shown(store.url_of(f"{prefix}{name}"))
        return int(ask(path, lambda: store.info(f"{prefix}{name}"), patience)["size"])

    files = snapshot.files()
    for (name, size), found in zip(files.items(), several(size_of, files), strict=True):
        if found != size:
            raise SnapshotError(
                f"{shown(store.url_of(prefix + MANIFEST))}: {name} has {found} bytes, and should "
                f"have {size}"
            )


def bitmaps(
    store: Store, prefix: str, snapshot: Snapshot, patience: Patience
) -> list[bytes] | None:
    """The zero bitmap of each block; None where they are too large for a picture.

    Args:
        prefix: as of `require_objects`, which was called.

    Raises:
        SnapshotError: one is damaged.
        SourceError: one cannot be read.
    """
    if sum(block.bitmap.size for block in snapshot.blocks) > _BITMAPS_MAX:
        return None
    found = []
    for entry in (block.bitmap for block in snapshot.blocks):
        name, data = f"{prefix}{entry.file}", bytearray(entry.size)
        path = shown(store.url_of(name))
        part = Part(name, "", entry.size, 0, memoryview(data))
        read(store, part, path, patience, lambda: False)
        if checksum(memoryview(data)) != entry.checksum:
            raise SnapshotError(f"{path}: is damaged: its checksum is not that of the manifest")
        found.append(bytes(data))
    return found
