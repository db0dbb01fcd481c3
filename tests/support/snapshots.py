"""Small snapshots for tests, made of bytes."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pagecheck.snapshot import manifest
from pagecheck.snapshot.checksums import chunk_digests
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.entries import entry
from pagecheck.snapshot.values import (
    MANIFEST,
    Disk,
    GuestRange,
    Machine,
    Snapshot,
    SnapshotBlock,
    file_stems,
)

PAGE = 4096
MACHINE = Machine("qemu", "7.2.9", "pc-i440fx-7.2", "x86_64", 2, ("qemu-system-x86_64", "-m", "1M"))
DISKS = (Disk("virtio0", "/images/a.qcow2", "qcow2", True, "overlay", "/images/a-2.qcow2"),)


def make_snapshot(
    path: Path,
    blocks: Mapping[str, bytes],
    *,
    state: bytes | None = b"QEVM state",
    machine: Machine | None = MACHINE,
    page_bytes: int = PAGE,
    finish: Callable[..., SnapshotBlock] | None = None,
    **options: Any,
) -> Snapshot:
    """A snapshot with these RAM blocks, as a save makes it.

    Args:
        finish: what is done with each block, with the options, such as compressing it.
    """
    with NewDirectory(path) as new:
        stems = file_stems(list(blocks))
        made = [
            _block(new, name, stem, ram, page_bytes)
            for (name, ram), stem in zip(blocks.items(), stems, strict=True)
        ]
        if finish is not None:
            made = [finish(new, block, page_bytes, **options) for block in made]
        if state is not None:
            new.write("state", state)
        snapshot = Snapshot(
            made_by="pagecheck tests",
            created="2026-01-31T12:00:00Z",
            exact=True,
            page_bytes=page_bytes,
            machine=machine,
            blocks=tuple(made),
            state=None if state is None else entry("state", state),
            disks=DISKS if machine else (),
            pause={"seconds": 0.004},
        )
        new.write(MANIFEST, manifest.render(snapshot))
        new.finish()
    return snapshot


def _block(new: NewDirectory, name: str, stem: str, ram: bytes, page_bytes: int) -> SnapshotBlock:
    pages = np.frombuffer(ram, np.uint8).reshape(-1, page_bytes)
    zero = ~pages.any(axis=1)
    bits = np.zeros(-(-len(zero) // 64) * 64, np.bool_)
    bits[: len(zero)] = zero
    bitmap = np.packbits(bits, bitorder="little").tobytes()
    fd = new.create(f"{stem}.ram")
    os.truncate(fd, len(ram))
    for page in np.flatnonzero(~zero):
        os.pwrite(fd, pages[page].tobytes(), int(page) * page_bytes)
    chunks = chunk_digests(fd, len(ram))
    os.close(fd)
    new.write(f"{stem}.zero", bitmap)
    new.write(f"{stem}.chunks", chunks)
    normal = int((~zero).sum())
    return SnapshotBlock(
        name=name,
        size=len(ram),
        file=f"{stem}.ram",
        bytes_stored=normal * page_bytes,
        regions=(GuestRange(0, len(ram), 0),),
        backend="private",
        zero=int(zero.sum()),
        normal=normal,
        bitmap=entry(f"{stem}.zero", bitmap),
        chunks=entry(f"{stem}.chunks", chunks),
    )


def some_ram(pages: int, seed: int = 1, zero_share: float = 0.5) -> bytes:
    """RAM of that many pages, a part of them zero."""
    random = np.random.default_rng(seed)
    ram = random.integers(0, 256, (pages, PAGE), np.uint8)
    ram[random.random(pages) < zero_share] = 0
    return ram.tobytes()
