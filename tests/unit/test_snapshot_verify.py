"""Whatever is not as it was saved is found and named."""

import errno
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pagecheck.errors import ResourceError, SnapshotError
from pagecheck.snapshot import manifest
from pagecheck.snapshot.directory import MARKER
from pagecheck.snapshot.entries import entry
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.info import bitmaps
from pagecheck.snapshot.values import MANIFEST
from pagecheck.snapshot.verify import verify
from tests.support.leftovers import open_fds
from tests.support.snapshots import PAGE, make_snapshot, some_ram

MIB = 1 << 20


@pytest.fixture
def snap(tmp_path: Path) -> Path:
    make_snapshot(tmp_path / "snap", {"pc.ram": some_ram(700), "vga": some_ram(16, 2)})
    return tmp_path / "snap"


def flip(path: Path, at: int, bits: int = 1) -> None:
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, bytes([os.pread(fd, 1, at)[0] ^ bits]), at)
    os.close(fd)


def reseal(snap: Path, change: Callable[[manifest.Snapshot], manifest.Snapshot]) -> None:
    """Another manifest, with a right checksum."""
    (snap / MANIFEST).write_bytes(manifest.render(change(manifest.read(snap))))


def test_a_whole_one(snap: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(snap, progress=lambda done, total: seen.append((done, total)))
    assert report.files == len(os.listdir(snap)) == 8
    assert report.bytes_checked == sum(each.stat().st_size for each in snap.iterdir())
    assert report.snapshot == manifest.read(snap)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(report.snapshot.files().values())
    assert json.loads(json.dumps(report.to_json()))["blocks"] == ["pc.ram", "vga"]


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EIO, SnapshotError, "block pc.ram cannot be read: Input/output error"),
        (errno.EMFILE, ResourceError, "pc.ram.ram"),
        (errno.ENOMEM, ResourceError, "pc.ram.ram"),
    ],
)
def test_a_read_that_fails(
    snap: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], words: str
) -> None:
    """A disk's fault is the snapshot's; a shortage of ours says nothing of it."""

    def fail(*_: object, **__: object) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("pagecheck.snapshot.verify.ram_digests", fail)
    with pytest.raises(kind, match=words):
        verify(snap)


def test_no_descriptor_is_left(snap: Path) -> None:
    before = open_fds()
    verify(snap)
    flip(snap / "pc.ram.ram", 0)
    with pytest.raises(SnapshotError):
        verify(snap)
    assert open_fds() == before


def test_holes_may_have_been_lost(snap: Path) -> None:
    for each in snap.iterdir():
        each.write_bytes(each.read_bytes())
    verify(snap)


@pytest.mark.long
def test_every_byte_of_a_small_one(tmp_path: Path) -> None:
    """Each is flipped in turn and its file is named; of a hole every sixteenth. The manifest's
    are tests/unit/test_snapshot_manifest.py's."""
    snap = tmp_path / "small"
    make_snapshot(snap, {"pc.ram": bytes(PAGE) + some_ram(1, zero_share=0)}, state=b"QEVM")
    verify(snap)
    every = {each: [*range(each.stat().st_size)] for each in sorted(snap.iterdir())}
    del every[snap / MANIFEST]
    every[snap / "pc.ram.ram"][:PAGE] = range(0, PAGE, 16)
    for each, places in every.items():
        for at in places:
            flip(each, at, 1 << at % 8)
            with pytest.raises(SnapshotError, match=f"/{each.name}: "):
                verify(snap)
            flip(each, at, 1 << at % 8)
    verify(snap)


def test_a_page_in_a_hole(snap: Path) -> None:
    zero = np.unpackbits(np.fromfile(snap / "pc.ram.zero", np.uint8), bitorder="little")[:700]
    page = int(np.flatnonzero(zero)[-1])
    flip(snap / "pc.ram.ram", page * PAGE + 4095)
    with pytest.raises(SnapshotError, match=r"block pc\.ram is damaged.*pages 512 to 699 of 700"):
        verify(snap)


def test_all_damage_of_a_block_is_named(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "snap", {"ram": some_ram(256 * 12)})
    for chunk in (0, 1, 4, 6, 8, 11):
        flip(tmp_path / "snap" / "ram.ram", chunk * MIB + chunk)
    said = "pages 0 to 511, 1024 to 1279, 1536 to 1791 and 2 more ranges of 3072 are not as they"
    with pytest.raises(SnapshotError, match=said):
        verify(tmp_path / "snap")


@pytest.mark.parametrize("name", ["pc.ram.ram", "pc.ram.zero", "pc.ram.chunks", "state", MANIFEST])
@pytest.mark.parametrize("change", ["cut", "grown", "empty", "missing", "link", "pipe", "folder"])
def test_a_file_that_is_not_what_it_was(snap: Path, name: str, change: str) -> None:
    path = snap / name
    if change in ("cut", "grown", "empty"):
        by = {"cut": -1, "grown": 1, "empty": -path.stat().st_size}[change]
        os.truncate(path, path.stat().st_size + by)
    else:
        path.rename(snap.parent / name)
        if change == "link":
            path.symlink_to(snap.parent / name)
        elif change == "pipe":
            os.mkfifo(path)
        elif change == "folder":
            path.mkdir()
    with pytest.raises(SnapshotError, match=f"/{name}: "):
        verify(snap)


def test_a_file_of_another_snapshot(snap: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_snapshot(other, {"pc.ram": some_ram(700, 3), "vga": some_ram(16, 4)}, state=b"QEVM STATE")
    for name in sorted(os.listdir(other)):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(snap, mixed)
        shutil.copy(other / name, mixed / name)
        with pytest.raises(SnapshotError, match="of another snapshot"):
            verify(mixed)


def test_a_state_that_is_larger_than_memory_may_be(snap: Path) -> None:
    """A sparse file costs its maker nothing."""
    size = 128 * MIB
    os.truncate(snap / "state", size)
    claimed = entry("state", b"")._replace(size=size)
    reseal(snap, lambda found: found._replace(state=claimed))
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotError, match="state: is damaged, or of another snapshot"):
            verify(snap)
        assert tracemalloc.get_traced_memory()[1] < size // 4
    finally:
        tracemalloc.stop()


def test_a_file_too_many(snap: Path) -> None:
    (snap / MARKER).write_bytes(b"")
    verify(snap)
    (snap / "notes.txt").write_bytes(b"x")
    with pytest.raises(SnapshotError, match=r"notes\.txt: does not belong to the snapshot"):
        verify(snap)


def rebuilt_bitmap(snap: Path, change: Callable[[np.ndarray], None], *, count: bool) -> None:
    """A bitmap that says something else, with right checksums."""
    bits = np.unpackbits(np.fromfile(snap / "pc.ram.zero", np.uint8), bitorder="little")
    change(bits)
    words = np.packbits(bits, bitorder="little").tobytes()
    (snap / "pc.ram.zero").write_bytes(words)

    def named(snapshot: manifest.Snapshot) -> manifest.Snapshot:
        block = snapshot.blocks[0]._replace(bitmap=entry("pc.ram.zero", words))
        if count:
            zero = int(bits.sum())
            block = block._replace(zero=zero, normal=700 - zero)
        return snapshot._replace(blocks=(block, *snapshot.blocks[1:]))

    reseal(snap, named)


def test_a_page_that_is_wrongly_marked_as_zero(snap: Path) -> None:
    normal: list[int] = []

    def change(bits: np.ndarray) -> None:
        normal.extend(np.flatnonzero(bits[:700] == 0)[[3, 100]].tolist())
        bits[normal] = 1

    rebuilt_bitmap(snap, change, count=True)
    said = rf"pages {normal[0]} to {normal[0]}, {normal[1]} to {normal[1]} of block pc\.ram are mar"
    with pytest.raises(SnapshotError, match=rf"pc\.ram\.zero: {said}ked as zero"):
        verify(snap)


def test_a_zero_page_that_is_not_marked(snap: Path) -> None:
    """What a save could not decide is stored, whatever it is."""
    rebuilt_bitmap(snap, lambda bits: bits.put(np.flatnonzero(bits)[0], 0), count=True)
    verify(snap)


def test_counts_that_disagree(snap: Path) -> None:
    rebuilt_bitmap(snap, lambda bits: bits.put(np.flatnonzero(bits)[0], 0), count=False)
    with pytest.raises(SnapshotError, match=r"has \d+ zero pages, and the manifest counts \d+"):
        verify(snap)


def test_bits_past_the_end(snap: Path) -> None:
    rebuilt_bitmap(snap, lambda bits: bits.put(703, 1), count=False)
    with pytest.raises(SnapshotError, match=r"has \d+ zero pages, and the manifest counts \d+"):
        verify(snap)


@pytest.mark.parametrize("page_bytes", [4096, 1 << 21])
def test_large_pages(tmp_path: Path, page_bytes: int) -> None:
    ram = bytes(2 * MIB) + some_ram(512) + bytes(2 * MIB)
    make_snapshot(tmp_path / "snap", {"ram": ram}, page_bytes=page_bytes)
    verify(tmp_path / "snap")
    for at in (0, 3 * MIB, 5 * MIB + 7):
        flip(tmp_path / "snap" / "ram.ram", at)
        with pytest.raises(SnapshotError, match="block ram is damaged"):
            verify(tmp_path / "snap")
        flip(tmp_path / "snap" / "ram.ram", at)


def test_small_files_that_do_not_fit_into_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse files make a snapshot of any size; nothing of these is read."""
    snap = tmp_path / "snap"
    made = make_snapshot(snap, {"pc.ram": bytes(PAGE)})
    size = 1 << 42
    block = made.blocks[0]
    block = block._replace(
        size=size,
        zero=0,
        normal=size // PAGE,
        bitmap=block.bitmap._replace(size=size // PAGE // 8),
        chunks=block.chunks._replace(size=size >> 20 << 4),
    )
    (snap / MANIFEST).write_bytes(manifest.render(made._replace(blocks=(block,))))
    for name, length in made._replace(blocks=(block,)).files().items():
        os.truncate(snap / name, length)
    has = {"SC_PHYS_PAGES": 1 << 15, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", has.__getitem__)
    said = r"snap: its bitmaps and checksums take 320 MiB of memory, more than half .* \(128 MiB\)"
    with pytest.raises(ResourceError, match=said):
        verify(snap)
    with Folder(snap) as folder, pytest.raises(ResourceError, match=said):
        bitmaps(folder, manifest.read(snap))


def test_only_so_many_wrong_pages_are_remembered(
    snap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pagecheck.snapshot.verify._WRONG_MAX", 2)
    rebuilt_bitmap(snap, lambda bits: bits[:700].fill(1), count=True)
    with pytest.raises(
        SnapshotError, match=r"pages \d+ to \d+(, \d+ to \d+)? of block pc\.ram are"
    ):
        verify(snap)
