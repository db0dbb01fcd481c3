"""docs/snapshot-format.md is enough to write a reader: this one was written from it alone."""

import json
import os
import re
import stat
import struct
from pathlib import Path

import jsonschema
import pytest
import xxhash
import zstandard

from pagecheck.snapshot import manifest
from pagecheck.snapshot.compress import compress_block
from tests.support.snapshots import make_snapshot, some_ram

PAGE_OF_DOCS = Path(__file__).parents[2] / "docs" / "snapshot-format.md"


def read_snapshot(path: str) -> tuple[dict, dict[str, bytes]]:
    """The manifest, and the RAM of each block."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def content(name: str, size: int | None = None, checksum: str | None = None) -> bytes:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name)
        with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read()
        assert size in (None, len(data))
        assert checksum in (None, f"xxh3-128:{xxhash.xxh3_128_hexdigest(data)}")
        return data

    def of_entry(entry: dict) -> bytes:
        return content(entry["file"], entry["size"], entry["checksum"])

    text = content("manifest.json")
    top = json.loads(text)
    digits = next(iter(top.values())).removeprefix("xxh3-128:")
    assert xxhash.xxh3_128_hexdigest(text.replace(digits.encode(), b"0" * 32, 1)) == digits
    assert (top["format"], top["version"].split(".")[0]) == ("pagecheck-snapshot", "1")
    found = {}
    for block in top["blocks"]:
        packed, stored = block["compression"], content(block["file"])
        if packed is None:
            ram = stored
        else:
            assert (packed["algorithm"], packed["size"]) == ("zstd", len(stored))
            ram, at, frames = b"", 0, of_entry(packed["frames"])
            for length, digest in struct.iter_unpack("<Q16s", frames):
                frame, at = stored[at : at + length], at + length
                assert xxhash.xxh3_128_digest(frame) == digest
                chunk = min(1 << 20, block["size"] - len(ram))
                ram += zstandard.decompress(frame) if length else bytes(chunk)
        assert len(ram) == block["size"]
        chunks = [
            xxhash.xxh3_128_digest(ram[i : i + (1 << 20)]) for i in range(0, len(ram), 1 << 20)
        ]
        assert b"".join(chunks) == of_entry(block["chunks"])
        bits = int.from_bytes(of_entry(block["bitmap"]), "little")
        assert bits.bit_count() == block["counts"]["zero"]
        page = top["page_bytes"]
        zero = [i for i in range(len(ram) // page) if bits >> i & 1]
        assert not any(any(ram[i * page : (i + 1) * page]) for i in zero)
        found[block["name"]] = ram
    if top["state"] is not None:
        of_entry(top["state"])
    os.close(folder)
    return top, found


@pytest.mark.parametrize("finish", [None, compress_block])
def test_a_reader_that_was_written_from_the_page(tmp_path: Path, finish: object) -> None:
    blocks = {"pc.ram": bytes(1 << 20) + some_ram(300), "/objects/m 1": some_ram(9, 2)}
    snapshot = make_snapshot(tmp_path / "snap", blocks, finish=finish)  # type: ignore[arg-type]
    top, found = read_snapshot(str(tmp_path / "snap"))
    assert found == blocks
    assert top["created"] == snapshot.created


def test_the_page_has_every_member() -> None:
    page = PAGE_OF_DOCS.read_text()
    schema = json.loads(Path(manifest.__file__).with_name("manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    names = set(schema["properties"])
    for each in schema["$defs"].values():
        for part in (each, *each.get("allOf", ())):
            names |= set(part.get("properties", ()))
    missing = {name for name in names if f"`{name}`" not in page and f'"{name}"' not in page}
    assert missing == set()
