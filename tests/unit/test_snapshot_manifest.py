"""manifest.json is read as what anybody may have written, and written so that nothing is lost."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pagecheck.errors import SnapshotError, SourceError
from pagecheck.snapshot import manifest, qemu_parts
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.entries import checksum
from pagecheck.snapshot.members import ITEMS_MAX
from pagecheck.snapshot.values import MANIFEST, Compression, Snapshot, file_stems
from pagecheck.snapshot.writing import write_manifest
from tests.support.snapshots import DISKS, MACHINE, make_snapshot, some_ram
from tests.support.users import in_a_child, needs_root

SCHEMA = Path(manifest.__file__).with_name("manifest.schema.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Snapshot]:
    path = tmp_path_factory.mktemp("made") / "snap"
    return path, make_snapshot(path, {"pc.ram": some_ram(300), "/objects/mem 1": some_ram(8, 2)})


def sealed(members: dict[str, Any]) -> bytes:
    """A manifest with a right checksum, whatever else is in it."""
    rest = json.dumps(members)[1:]
    text = f'{{"checksum": "xxh3-128:{"0" * 32}", {rest}'.encode()
    return text.replace(b"0" * 32, checksum(text)[-32:].encode(), 1)


def members_of(made: tuple[Path, Snapshot]) -> dict[str, Any]:
    members: dict[str, Any] = json.loads((made[0] / MANIFEST).read_bytes())
    del members["checksum"]
    return members


def test_what_is_written_is_read(made: tuple[Path, Snapshot]) -> None:
    path, snapshot = made
    assert manifest.read(path) == snapshot
    assert manifest.render(snapshot) == (path / MANIFEST).read_bytes()
    assert {name: os.path.getsize(path / name) for name in snapshot.files()} == snapshot.files()
    assert {*os.listdir(path)} == {*snapshot.files(), MANIFEST}


def test_the_checksum_is_over_the_text_with_zeros_in_its_place(made: tuple[Path, Snapshot]) -> None:
    text = (made[0] / MANIFEST).read_bytes()
    first, said = next(iter(json.loads(text).items()))
    assert first == "checksum"
    assert checksum(text.replace(said[-32:].encode(), b"0" * 32)) == said


def test_every_byte_counts(made: tuple[Path, Snapshot]) -> None:
    text = (made[0] / MANIFEST).read_bytes()
    for at in range(len(text)):
        flipped = bytes([*text[:at], text[at] ^ 1, *text[at + 1 :]])
        with pytest.raises(SnapshotError, match=r"manifest.json: (is damaged|does not begin)"):
            manifest.parse(flipped)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft202012Validator:
    rules = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(rules)
    return jsonschema.Draft202012Validator(rules)


def test_the_schema_describes_what_is_written(
    made: tuple[Path, Snapshot], schema: jsonschema.Draft202012Validator
) -> None:
    schema.validate(json.loads((made[0] / MANIFEST).read_bytes()))
    frames = made[1].blocks[0].bitmap._replace(size=48)
    packed = made[1].blocks[0]._replace(compression=Compression("zstd", 5, frames))
    for each in (
        made[1]._replace(machine=None, state=None, pause=None, disks=(), blocks=()),
        made[1]._replace(blocks=(packed,)),
    ):
        schema.validate(json.loads(manifest.render(each)))


def test_unknown_members_are_kept(made: tuple[Path, Snapshot]) -> None:
    members = members_of(made)
    members["later"] = {"a": [1]}
    members["version"] = "1.7"
    for each in (members["machine"], members["disks"][0], members["state"], members["blocks"][0]):
        each["new"] = [None, "x"]
    members["blocks"][1]["regions"][0]["kind"] = "ram"
    members["blocks"][1]["bitmap"]["kind"] = "bits"
    members["blocks"][1]["chunks"]["kind"] = "sums"
    snapshot = manifest.parse(sealed(members))
    written = json.loads(manifest.render(snapshot))
    del written["checksum"]
    assert written == members


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("2.0", r"format version 2\.0, and this pagecheck reads version 1"),
        ("11.0", r"format version 11\.0"),
        ("01.0", r"format version 01\.0"),
        ("1", r"version: must be two numbers"),
        (1.0, r"version: must be two numbers"),
        ("1.0\n", r"version: must be two numbers"),
    ],
)
def test_versions_that_are_not_read(
    made: tuple[Path, Snapshot], version: object, says: str
) -> None:
    with pytest.raises(SnapshotError, match=says):
        manifest.parse(sealed({**members_of(made), "version": version}))


HOSTILE_NAMES = [
    "../x", "/etc/shadow", "a/b", "..", ".", "", ".hidden", "a\0b", "a b", "a\n", "ä", "-x",
    MANIFEST, "x" * 201, 7, None, ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
@pytest.mark.parametrize("where", ["state", "ram", "bitmap", "chunks"])
def test_names_never_leave_the_directory(
    made: tuple[Path, Snapshot], where: str, name: object
) -> None:
    members = members_of(made)
    block = members["blocks"][0]
    of = {"state": members["state"], "ram": block, "bitmap": block["bitmap"]}
    of.get(where, block["chunks"])["file"] = name
    with pytest.raises(SnapshotError, match=r"file: must be a file name"):
        manifest.parse(sealed(members))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("page_bytes", 4095), ("page_bytes", 4096 * 3), ("page_bytes", 1 << 40),
        ("page_bytes", True),
        ("byte_order", "big"), ("created", "yesterday"), ("made_by", ""), ("exact", 1),
        ("format", "tar"), ("blocks", {}), ("disks", None), ("pause", 3), ("machine", "qemu"),
        ("blocks.0", 3), ("blocks.0.size", 4097), ("blocks.0.size", 0), ("blocks.0.size", -4096),
        ("blocks.0.size", 1 << 63), ("blocks.0.size", 1e6), ("blocks.0.size", "4096"),
        ("blocks.0.size", 300 * 4096 * 2), ("blocks.0.size", 10**4000), ("blocks.0.name", ""),
        ("blocks.0.backend", "disk"), ("blocks.0.counts.zero", 301), ("blocks.0.counts.zero", 0),
        ("blocks.0.counts.normal", -1), ("blocks.0.bytes_stored", -1), ("blocks.0.bitmap", None),
        ("blocks.0.bitmap.size", 48), ("blocks.0.bitmap.checksum", "md5:00"),
        ("blocks.0.bitmap.checksum", "xxh3-128:" + "A" * 32), ("blocks.0.chunks.size", 16),
        ("blocks.0.chunks.bytes", 1), ("blocks.0.chunks.algorithm", "crc32"),
        ("blocks.0.regions.0.gpa", 1 << 64), ("blocks.0.regions.0.size", 300 * 4096 + 1),
        ("blocks.0.regions.0.offset", 300 * 4096), ("blocks.0.compression", "zstd"),
        ("blocks.0.compression", {"algorithm": "lzma"}), ("state.size", -1), ("state", []),
        ("machine.vcpus", 0), ("machine.command_line", [1]), ("machine.command_line", "qemu"),
        ("machine.command_line", ["a\0b"]), ("machine.vmm", None), ("machine.arch", 5),
        ("disks.0.kept", "maybe"), ("disks.0.writable", "no"), ("disks.0.path", 1),
    ],
)  # fmt: skip
def test_values_out_of_range(
    made: tuple[Path, Snapshot],
    schema: jsonschema.Draft202012Validator,
    path: str,
    value: object,
) -> None:
    size_rule = isinstance(value, int) and path.startswith("blocks.")  # beyond a schema
    members = members_of(made)
    *way, last = path.split(".")
    at: Any = members
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    at[int(last) if last.isdigit() else last] = value
    assert not schema.is_valid({"checksum": "xxh3-128:" + "0" * 32, **members}) or size_rule
    with pytest.raises(SnapshotError, match=r"^manifest\.json\.?[a-z]\S*: must be ") as raised:
        manifest.parse(sealed(members))
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("path", ["page_bytes", "blocks", "disks", "machine", "state", "pause"])
def test_members_that_are_missing(made: tuple[Path, Snapshot], path: str) -> None:
    members = members_of(made)
    del members[path]
    with pytest.raises(SnapshotError, match=f"the member '{path}' is missing"):
        manifest.parse(sealed(members))


def test_a_file_or_block_that_is_named_twice(made: tuple[Path, Snapshot]) -> None:
    members = members_of(made)
    members["blocks"][1]["file"] = "state"
    with pytest.raises(SnapshotError, match="the file state is named twice"):
        manifest.parse(sealed(members))
    members = members_of(made)
    members["blocks"][1]["name"] = "pc.ram"
    with pytest.raises(SnapshotError, match=r"the block pc\.ram is named twice"):
        manifest.parse(sealed(members))


@pytest.mark.long
def test_many_names_are_compared_in_a_moment(made: tuple[Path, Snapshot]) -> None:
    """Each with each would take minutes."""
    members = members_of(made)
    small = members["blocks"][1]
    members["blocks"] = [
        small
        | {
            "name": f"block {number}",
            "bitmap": small["bitmap"] | {"file": f"{number}.zero"},
            "chunks": small["chunks"] | {"file": f"{number}.chunks"},
        }
        for number in range(ITEMS_MAX * 3 // 4)
    ]
    with pytest.raises(SnapshotError, match=f"the file {small['file']} is named twice"):
        manifest.parse(sealed(members))


@pytest.mark.parametrize(
    "rest",
    [
        '"a": 1, "a": 1}', '"a": NaN}', '"a": -Infinity}', '"a": 1e999}', '"a": ' + "[" * 100_000,
        '"a": ' + "9" * 5000 + "}", '"a": "\udcff"}', "", "}{",
    ],
    ids=lambda rest: rest[:12],
)  # fmt: skip
def test_text_that_is_not_json(rest: str) -> None:
    text = f'{{"checksum": "xxh3-128:{"0" * 32}", {rest}'.encode(errors="surrogateescape")
    text = text.replace(b"0" * 32, checksum(text)[-32:].encode(), 1)
    with pytest.raises(SnapshotError, match="is not valid JSON"):
        manifest.parse(text)


def test_what_its_own_reader_refuses_is_not_written(
    made: tuple[Path, Snapshot], tmp_path: Path
) -> None:
    written = {"created": made[1].created, "exact": True, "page_size": 4096}
    for machine, disks in (
        (MACHINE._replace(arch=""), ()),
        (MACHINE, (DISKS[0]._replace(path=""),)),
    ):
        with NewDirectory(tmp_path / "snap") as new:
            with pytest.raises(SourceError, match=r"nothing was saved.*must be a text of 1 to"):
                write_manifest(new, made[1].blocks, machine=machine, disks=disks, **written)
            assert MANIFEST not in os.listdir(new.fd)


def test_what_qemu_leaves_empty_is_not_known() -> None:
    made = {**DISKS[0]._asdict(), "path": "", "format": "", "device": "", "node": "#block1"}
    del made["other"]
    assert qemu_parts._disk(made)[:3] == ("#block1", None, None)


def test_a_directory_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="does not exist; a directory without it is not a snap"):
        manifest.read(tmp_path)
    with pytest.raises(SourceError, match="nowhere: does not exist"):
        manifest.read(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(SourceError, match="is not a directory; name the directory that a save"):
        manifest.read(tmp_path / "file")


@needs_root
def test_what_may_not_be_read(made: tuple[Path, Snapshot], tmp_path: Path) -> None:
    """That says nothing about the snapshot."""
    tmp_path.chmod(0o755)
    for path in tmp_path.parents:
        path.chmod(path.stat().st_mode | 0o111)
    shutil.copyfile(made[0] / MANIFEST, tmp_path / MANIFEST)
    os.chmod(tmp_path / MANIFEST, 0o600)
    (tmp_path / "private").mkdir(0o700)

    def look() -> None:
        for path, name in ((tmp_path, MANIFEST), (tmp_path / "private", "private")):
            with pytest.raises(SourceError, match=f"{name}: cannot be read: Permission denied"):
                manifest.read(path)

    in_a_child(look)


def test_a_manifest_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MANIFEST_BYTES_MAX", 10)
    (tmp_path / MANIFEST).write_bytes(b"x" * 11)
    with pytest.raises(SnapshotError, match="has 11 bytes, and may have 10 at most"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "socket"])
def test_a_manifest_that_is_not_a_file(
    made: tuple[Path, Snapshot], tmp_path: Path, kind: str
) -> None:
    place = tmp_path / MANIFEST
    if kind == "link":
        place.symlink_to(made[0] / MANIFEST)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        os.mknod(place, 0o140600)
    with pytest.raises(SnapshotError, match=rf"manifest\.json: is a .*{kind}.*regular file"):
        manifest.read(tmp_path)


def test_names_of_files_of_blocks() -> None:
    names = ["pc.ram", "/objects/mem 0", "", "..", "a/b", "a_b", "pc.ram-2", "x" * 300, "é"]
    stems = file_stems(names)
    assert stems[0] == "pc.ram"
    assert len(set(stems)) == len(names)
    assert all(manifest.Members({"n": f"{s}.ram.frames"}, "").file_name("n") for s in stems)
