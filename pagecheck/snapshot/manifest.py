"""manifest.json: reading it as what anybody may have written, and writing it.

Facts: a JSON parser accepts an object with one name twice, NaN, and nesting until the stack ends.
Danger: what is read here chooses the files that are opened and the VM that is started. Decision:
the checksum over the whole text comes first, then every member is checked by type and range before
any is used; an unknown major version is refused, and unknown members are kept.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter

from pagecheck.errors import SnapshotError
from pagecheck.printable import printable
from pagecheck.snapshot import files
from pagecheck.snapshot.members import SIZE_MAX, Members, as_members
from pagecheck.snapshot.values import (
    ALGORITHM,
    CHUNK_BYTES,
    DIGEST_BYTES,
    FORMAT,
    FRAME_RECORD_BYTES,
    MANIFEST,
    VERSION,
    Compression,
    Disk,
    FileEntry,
    GuestRange,
    Machine,
    Snapshot,
    SnapshotBlock,
    bitmap_bytes,
)

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    import os
    from typing import Any, Final

MANIFEST_BYTES_MAX: Final = 16 << 20  # hostile text becomes 25 times as much in memory
PAGE_BYTES_MAX: Final = 1 << 30

_START: Final = re.compile(rb'\s*\{\s*"checksum"\s*:\s*"xxh3-128:([0-9a-f]{32})"')
_VERSION: Final = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})", re.ASCII)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)
_ZEROS: Final = b"0" * 32


def read(directory: str | os.PathLike[str]) -> Snapshot:
    """The manifest of a snapshot's directory. The other files are not looked at.

    Raises:
        SnapshotError: there is none, it is damaged, or it is of a version that is not known.
    """
    with files.Folder(directory) as folder:
        return read_in(folder)


def read_in(folder: files.Folder) -> Snapshot:
    """As `read`, of an open directory."""
    return parse(folder.read(MANIFEST, MANIFEST_BYTES_MAX), folder.path_of(MANIFEST))


def parse(text: bytes, where: str = MANIFEST) -> Snapshot:
    """The manifest that a text holds.

    Args:
        text: of the whole file.
        where: what errors begin with.

    Raises:
        SnapshotError: as `read`.
    """
    start = _START.match(text)
    if start is None:
        raise SnapshotError(
            f"{where}: does not begin with its checksum; it is damaged, or not the manifest of a "
            "snapshot"
        )
    if _digest(text, start.start(1)) != start[1]:
        raise SnapshotError(f"{where}: is damaged: its checksum is not that of its text")
    top = Members(_loaded(text, where), where)
    del top.rest()["checksum"]
    _require_version(top)
    return _snapshot(top)


def render(snapshot: Snapshot) -> bytes:
    """The text of manifest.json."""
    sealed = {"checksum": f"{ALGORITHM}:{_ZEROS.decode()}", **members(snapshot)}
    text = json.dumps(sealed, indent=1).encode("ascii") + b"\n"
    start = _START.match(text)
    assert start is not None
    at = start.start(1)
    return text[:at] + _digest(text, at) + text[at + len(_ZEROS) :]


def _digest(text: bytes, at: int) -> bytes:
    import xxhash

    digest = xxhash.xxh3_128(text[:at])
    digest.update(_ZEROS)
    digest.update(text[at + len(_ZEROS) :])
    return bytes(digest.hexdigest(), "ascii")


def _loaded(text: bytes, where: str) -> object:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("an object has a member twice")
        return found

    def finite(digits: str) -> float:
        if not math.isfinite(number := float(digits)):
            raise ValueError(f"{printable(digits, 40)} is not a number of JSON, or too large")
        return number

    try:
        return json.loads(
            text.decode(), object_pairs_hook=once, parse_constant=finite, parse_float=finite
        )
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{where}: is not valid JSON: {printable(str(error))}") from error


def _require_version(top: Members) -> None:
    found = top.take("format")
    if found != FORMAT:
        raise top.fault("format", found, f"'{FORMAT}'")
    version = top.take("version")
    parts = _VERSION.fullmatch(version) if isinstance(version, str) else None
    if parts is None:
        raise top.fault("version", version, "two numbers with a point between them")
    ours = VERSION.partition(".")[0]
    if parts[1] != ours:
        raise SnapshotError(
            f"{top.where}: is of format version {version}, and this pagecheck reads version "
            f"{ours}; use the pagecheck that made it, or a later one"
        )
    top.rest()["version"] = version


def _snapshot(top: Members) -> Snapshot:
    page_bytes = top.integer("page_bytes", 4096, PAGE_BYTES_MAX)
    if page_bytes & (page_bytes - 1):
        raise top.fault("page_bytes", page_bytes, "a power of two")
    top.one_of("byte_order", ("little",))
    created = top.text("created", 40)
    if not is_time(created):
        raise top.fault("created", created, "a time such as 2026-01-31T12:00:00Z")
    pause = None if top.is_null("pause") else top.member("pause").rest()
    found = Snapshot(
        made_by=top.text("made_by", 1000),
        created=created,
        exact=top.boolean("exact"),
        page_bytes=page_bytes,
        machine=None if top.is_null("machine") else machine_of(top.member("machine")),
        blocks=tuple(_block(each, page_bytes) for each in top.objects("blocks")),
        state=None if top.is_null("state") else _entry(top.member("state")),
        disks=tuple(disk_of(each) for each in top.objects("disks")),
        pause=pause,
        version=top.text("version"),
        other=top.rest(),
    )
    _require_different(found, top.where)
    return found


def is_time(text: str) -> bool:
    """Whether it is a time as a manifest has it."""
    return _TIME.fullmatch(text) is not None


def _require_different(snapshot: Snapshot, where: str) -> None:
    """No file is named twice, and no block."""
    names = [snapshot.state.file] if snapshot.state else []
    for block in snapshot.blocks:
        names += [block.file, block.bitmap.file, block.chunks.file]
        names += [block.compression.frames.file] if block.compression else []
    for what, found in (("file", names), ("block", [each.name for each in snapshot.blocks])):
        twice = [each for each, times in Counter(found).items() if times > 1]
        if twice:
            raise SnapshotError(f"{where}: the {what} {printable(min(twice))} is named twice")


def _entry(of: Members, size: int | None = None) -> FileEntry:
    """A file whose size may follow from the rest of the manifest."""
    low, high = (0, SIZE_MAX) if size is None else (size, size)
    return FileEntry(
        of.file_name("file"), of.integer("size", low, high), of.checksum("checksum"), of.rest()
    )


def _block(of: Members, page_bytes: int) -> SnapshotBlock:
    size = of.integer("size", page_bytes, SIZE_MAX - page_bytes, step=page_bytes)
    pages = size // page_bytes
    counts = of.member("counts")
    zero = counts.integer("zero", 0, pages)
    chunk_count = -(-size // CHUNK_BYTES)
    return SnapshotBlock(
        name=of.text("name", 4096),
        size=size,
        file=of.file_name("file"),
        bytes_stored=of.integer("bytes_stored"),
        regions=tuple(_range(each, size) for each in of.objects("regions")),
        backend=of.one_of("backend", ("private", "shared", "file")),
        zero=zero,
        normal=counts.integer("normal", pages - zero, pages - zero),
        bitmap=_entry(of.member("bitmap"), bitmap_bytes(pages)),
        chunks=_chunks(of.member("chunks"), chunk_count),
        compression=_compression(of, chunk_count),
        other=of.rest(),
    )


def _chunks(of: Members, count: int) -> FileEntry:
    of.integer("bytes", CHUNK_BYTES, CHUNK_BYTES)
    of.one_of("algorithm", (ALGORITHM,))
    return _entry(of, count * DIGEST_BYTES)


def _compression(block: Members, chunk_count: int) -> Compression | None:
    if block.is_null("compression"):
        return None
    of = block.member("compression")
    return Compression(
        algorithm=of.one_of("algorithm", ("zstd",)),
        size=of.integer("size"),
        frames=_entry(of.member("frames"), chunk_count * FRAME_RECORD_BYTES),
        other=of.rest(),
    )


def _range(of: Members, block_size: int) -> GuestRange:
    offset = of.integer("offset", 0, block_size - 1)
    size = of.integer("size", 1, block_size - offset)
    return GuestRange(of.integer("gpa", 0, (1 << 64) - size), size, offset, of.rest())


def machine_of(of: Members) -> Machine:
    """The member `machine`."""
    line = of.items("command_line")
    if not all(isinstance(each, str) and "\0" not in each for each in line):
        raise of.fault("command_line", line, "an array of texts without NUL")
    return Machine(
        vmm=of.text("vmm", 100),
        vmm_version=of.optional_text("vmm_version"),
        machine_type=of.optional_text("machine_type"),
        arch=of.optional_text("arch"),
        vcpus=None if of.is_null("vcpus") else of.integer("vcpus", 1, 1 << 20),
        command_line=tuple(line),
        other=of.rest(),
    )


def disk_of(of: Members) -> Disk:
    """One of the member `disks`."""
    return Disk(
        device=of.text("device", 4096),
        path=of.optional_text("path"),
        format=of.optional_text("format"),
        writable=of.boolean("writable"),
        kept=of.one_of("kept", ("none", "overlay", "quit")),
        overlay=of.optional_text("overlay"),
        other=of.rest(),
    )


def members(snapshot: Snapshot) -> dict[str, Any]:
    """The members of manifest.json, its checksum aside."""
    found = {
        "format": FORMAT,
        **snapshot._asdict(),
        "byte_order": "little",
        "machine": snapshot.machine and plain(snapshot.machine),
        "blocks": [_block_members(each) for each in snapshot.blocks],
        "state": snapshot.state and plain(snapshot.state),
        "disks": [plain(each) for each in snapshot.disks],
        "pause": None if snapshot.pause is None else dict(snapshot.pause),
    }
    del found["other"]
    return as_members(found, snapshot.other)


def _block_members(block: SnapshotBlock) -> dict[str, Any]:
    compression = block.compression
    members = {
        **block._asdict(),
        "regions": [plain(each) for each in block.regions],
        "counts": {"zero": block.zero, "normal": block.normal},
        "bitmap": plain(block.bitmap),
        "chunks": {"bytes": CHUNK_BYTES, "algorithm": ALGORITHM, **plain(block.chunks)},
        "compression": compression and {**plain(compression), "frames": plain(compression.frames)},
    }
    for name in ("zero", "normal", "other"):
        del members[name]
    return as_members(members, block.other)


def plain(value: Any) -> dict[str, Any]:
    """A value's members as JSON has them."""
    members = value._asdict()
    return as_members(members, members.pop("other"))
