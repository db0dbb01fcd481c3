"""Compressed RAM is the same RAM, and damage of it is found like any."""

import builtins
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import EngineError, OutputError, SnapshotError
from pagecheck.snapshot import compress, manifest, ram_files
from pagecheck.snapshot.compress import compress_block
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.ram_files import open_ram
from pagecheck.snapshot.values import CHUNK_BYTES, MANIFEST, Snapshot
from pagecheck.snapshot.verify import verify
from tests.support.snapshots import PAGE, make_snapshot, some_ram

MIB = 1 << 20


def ram() -> bytes:
    """Chunks that are zero, random, text and mixed; the last one is shorter."""
    text = (b"the same again " * 70_000)[:MIB]
    return bytes(2 * MIB) + some_ram(256) + text + bytes(MIB) + some_ram(100, 2)


def compressed(path: Path, content: bytes, **options: Any) -> Snapshot:
    return make_snapshot(path, {"pc.ram": content}, finish=compress_block, **options)


def content_of(path: Path) -> bytes:
    with Folder(path) as folder:
        snapshot = manifest.read_in(folder)
        (block,) = snapshot.blocks
        fd, file = open_ram(folder, block, snapshot.page_bytes)
        content = bytearray(block.size)
        for at in file.with_data():
            size = min(CHUNK_BYTES, block.size - at)
            content[at : at + size] = file.read(at, bytearray(size))
        os.close(fd)
    return bytes(content)


@pytest.mark.parametrize("size", [PAGE, MIB, MIB + PAGE, None])
def test_it_is_the_same(tmp_path: Path, size: int | None) -> None:
    content = ram()[3 * MIB :][:size] if size else ram()
    snapshot = compressed(tmp_path / "snap", content)
    (block,) = snapshot.blocks
    assert sorted(os.listdir(tmp_path / "snap")) == [
        MANIFEST, "pc.ram.chunks", "pc.ram.frames", "pc.ram.ram.zst", "pc.ram.zero", "state",
    ]  # fmt: skip
    assert manifest.read(tmp_path / "snap") == snapshot
    assert block.bytes_stored == os.path.getsize(tmp_path / "snap" / block.file)
    assert content_of(tmp_path / "snap") == content
    verify(tmp_path / "snap")


def test_a_sparse_one_is_read_by_the_same_way(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "snap", {"pc.ram": ram()})
    assert content_of(tmp_path / "snap") == ram()


def test_a_hole_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that says that nothing is where pages were written loses none of them."""
    monkeypatch.setattr(ram_files, "by_seeking", lambda *_: iter(()))
    compressed(tmp_path / "snap", ram())
    assert content_of(tmp_path / "snap") == ram()


def test_all_zeros_need_no_frame(tmp_path: Path) -> None:
    snapshot = compressed(tmp_path / "snap", bytes(3 * MIB))
    assert snapshot.blocks[0].bytes_stored == 0
    assert content_of(tmp_path / "snap") == bytes(3 * MIB)
    verify(tmp_path / "snap")


def test_any_number_of_threads_makes_the_same(tmp_path: Path) -> None:
    first = compressed(tmp_path / "1", ram(), threads=1)
    second = compressed(tmp_path / "2", ram(), threads=7)
    assert first == second


def test_every_byte_counts(tmp_path: Path) -> None:
    snap = tmp_path / "snap"
    compressed(snap, bytes(PAGE) + b"text" * 300 + bytes(PAGE - 1200))
    for each in ("pc.ram.ram.zst", "pc.ram.frames"):
        whole = (snap / each).read_bytes()
        for at in range(len(whole)):
            (snap / each).write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
            with pytest.raises(SnapshotError, match=f"/{each}: "):
                verify(snap)
        (snap / each).write_bytes(whole)
    verify(snap)


def test_damage_is_named(tmp_path: Path) -> None:
    snapshot = compressed(tmp_path / "snap", ram())
    path = tmp_path / "snap" / snapshot.blocks[0].file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    said = r"pc\.ram\.ram\.zst: block pc\.ram is damaged.*: pages 1280 to 1379 of 1380: "
    with pytest.raises(SnapshotError, match=said):
        verify(tmp_path / "snap")


class Resealed:
    """A snapshot whose frames are exchanged, with right checksums of the frames."""

    def __init__(self, path: Path, frame: bytes) -> None:
        import xxhash

        from pagecheck.snapshot.entries import entry
        from pagecheck.snapshot.values import Compression

        snapshot = compressed(path, some_ram(1, zero_share=0))
        frames = len(frame).to_bytes(8, "little") + xxhash.xxh3_128(frame).digest()
        (path / "pc.ram.ram.zst").write_bytes(frame)
        (path / "pc.ram.frames").write_bytes(frames)
        packed = Compression("zstd", len(frame), entry("pc.ram.frames", frames))
        block = snapshot.blocks[0]._replace(compression=packed)
        (path / MANIFEST).write_bytes(manifest.render(snapshot._replace(blocks=(block,))))


@pytest.mark.parametrize("kind", ["another", "too long", "too short", "huge", "nonsense", "none"])
def test_frames_that_are_not_the_chunk(tmp_path: Path, kind: str) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = zstandard.ZstdCompressor().compress
    frame = {
        "another": pack(some_ram(1, 9, zero_share=0)),
        "too long": pack(bytes(PAGE + 1)),
        "too short": pack(bytes(PAGE - 1)),
        "huge": bytes.fromhex("28b52ffde0ffffffffffffff7f") + b"x",
        "nonsense": b"nonsense" * 20,
        "none": b"",
    }[kind]
    Resealed(tmp_path / "snap", frame)
    with pytest.raises(SnapshotError, match=r"block pc\.ram is damaged, or of another snapshot"):
        verify(tmp_path / "snap")


def test_a_frame_that_is_longer_than_any(tmp_path: Path) -> None:
    """Of a sparse file it may claim more than there is memory."""
    Resealed(tmp_path / "snap", bytes(2 * MIB + 1))
    with pytest.raises(SnapshotError, match="one of its frames has 2097153 bytes, and may have"):
        verify(tmp_path / "snap")


def test_frames_that_do_not_fill_the_file(tmp_path: Path) -> None:
    Resealed(tmp_path / "snap", b"x" * 30)
    snapshot = manifest.read(tmp_path / "snap")
    (block,) = snapshot.blocks
    assert block.compression is not None
    block = block._replace(compression=block.compression._replace(size=31))
    text = manifest.render(snapshot._replace(blocks=(block,)))
    (tmp_path / "snap" / MANIFEST).write_bytes(text)
    (tmp_path / "snap" / block.file).write_bytes(b"x" * 31)
    with pytest.raises(SnapshotError, match="its frames have 30 bytes, and it has 31"):
        verify(tmp_path / "snap")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    write = os.write
    before = threading.active_count()

    def full(fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".zst"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(compress.os, "write", full)
    with pytest.raises(OutputError, match=r"\.zst: cannot be compressed: No space left"):
        compressed(tmp_path / "snap", ram())
    assert os.listdir(tmp_path) == []
    assert threading.active_count() == before


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed(tmp_path / "snap", ram())
    real = builtins.__import__

    def missing(name: str, *arguments: Any) -> Any:
        if name == "zstandard":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EngineError, match=r"need the package zstandard: pip install 'pagecheck"):
        verify(tmp_path / "snap")
    with pytest.raises(EngineError, match="need the package zstandard"):
        compressed(tmp_path / "other", ram())
    assert os.listdir(tmp_path) == ["snap"]


def test_the_room_of_the_sparse_file_is_released(tmp_path: Path) -> None:
    """Both together do not need the room of both."""
    most: list[int] = []
    content = some_ram(256 * 24, zero_share=0)

    def occupied(_done: int, _total: int) -> None:
        (folder,) = tmp_path.iterdir()
        most.append(sum(each.stat().st_blocks * 512 for each in folder.iterdir()))

    compressed(tmp_path / "snap", content, threads=2, progress=occupied)
    assert max(most) < len(content) * 1.3


def test_progress_and_cancellation(tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressed(tmp_path / "snap", some_ram(256 * 8), progress=progress)
    assert seen == sorted(seen)
    assert os.listdir(tmp_path) == []


def test_json_has_it(tmp_path: Path) -> None:
    compressed(tmp_path / "snap", ram())
    (block,) = json.loads((tmp_path / "snap" / MANIFEST).read_text())["blocks"]
    assert block["compression"]["algorithm"] == "zstd"
    with NewDirectory(tmp_path / "new") as new:
        new.write("x", b"")
        new.remove("x")
        new.finish()
    assert os.listdir(tmp_path / "new") == []
