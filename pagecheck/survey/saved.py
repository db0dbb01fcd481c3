"""Directories that `save` made, as rows: their manifests say how many pages are of which kind.

Nothing of the RAM is read: `pagecheck verify` does that. That every file is there and as long as it
must be is looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pagecheck import clock
from pagecheck.model import Counts
from pagecheck.snapshot import manifest
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.info import bitmaps, bytes_on_disk
from pagecheck.snapshot.outside import is_snapshot
from pagecheck.snapshot.values import MANIFEST
from pagecheck.snapshot.verify import require_files
from pagecheck.survey.strips import strip_of_saved
from pagecheck.survey.values import Found, Target, identity_of

if TYPE_CHECKING:
    from pagecheck.survey.values import Piece


def is_one(path: str) -> bool:
    """Whether a folder is a snapshot, whole or not.

    Raises:
        OSError: that cannot be found out.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_snapshot(fd)
    finally:
        os.close(fd)


def target(path: str) -> Target:
    """The snapshot as one memory file.

    Raises:
        SnapshotError: it is damaged, or of a version that is not known.
        SourceError: it may not be read.
    """
    with Folder(path) as folder:
        status = os.stat(MANIFEST, dir_fd=folder.fd, follow_symlinks=False)
        snapshot = manifest.read_in(folder)
        size = sum(block.size for block in snapshot.blocks)
        return Target(path, "snapshot", size, bytes_on_disk(folder, snapshot), identity_of(status))


def check(piece: Piece, *, pictures: bool = False) -> Found:
    """What its manifest says.

    Args:
        pictures: also where its pages lie, from its bitmaps.

    Raises:
        SnapshotError: as `target`, or a file is missing or has another size.
        SourceError: it may not be read.
    """
    started = clock.now_s()
    with Folder(piece.target.path) as folder:
        snapshot = manifest.read_in(folder)
        require_files(folder, snapshot)
        strip = strip_of_saved(snapshot, bitmaps(folder, snapshot)) if pictures else None
    zero = sum(block.zero for block in snapshot.blocks)
    normal = sum(block.normal for block in snapshot.blocks)
    counts = Counts(zero + normal, zero=zero, hole=zero, normal=normal)
    return Found(piece, counts, 0, clock.now_s() - started, strip=strip)
