"""Whatever stands in a snapshot's directory: it is read and written the same, or one clear line."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecheck.errors import SnapshotError
from pagecheck.snapshot import manifest
from pagecheck.snapshot.entries import checksum
from pagecheck.snapshot.values import MANIFEST
from pagecheck.snapshot.verify import verify
from tests.support.snapshots import make_snapshot, some_ram

LINE_MAX = 4500

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, 16, 4096, 1 << 20, 1 << 31, 1 << 63, 1 << 64, 10**400, -1])
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["", "..", "../x", "state", MANIFEST, "a\0b", "xxh3-128:", "1.0", "2.0"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def snap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "snap"
    make_snapshot(path, {"pc.ram": some_ram(260), "vga": some_ram(3)})
    return path


def sealed(members: dict[str, Any]) -> bytes:
    text = json.dumps({"checksum": f"xxh3-128:{'0' * 32}", **members}).encode()
    return text.replace(b"0" * 32, checksum(text)[-32:].encode(), 1)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every member."""
    found = [way] if way else []
    if not isinstance(value, dict | list):
        return found
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        found += places(each, (*way, key))
    return found


def put(members: dict[str, Any], way: tuple[Any, ...], value: Any) -> None:
    at: Any = members
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = value


def one_line(error: BaseException) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < LINE_MAX
    assert str(error).isprintable()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_members_of_any_kind(snap: Path, data: st.DataObject) -> None:
    members = json.loads((snap / MANIFEST).read_bytes())
    del members["checksum"]
    for _ in range(data.draw(st.integers(1, 3))):
        way = data.draw(st.sampled_from(places(members)))
        put(members, way, data.draw(VALUES))
    try:
        snapshot = manifest.parse(sealed(members))
    except SnapshotError as error:
        one_line(error)
        return
    again = manifest.render(snapshot)
    assert manifest.parse(again) == snapshot
    written = json.loads(again)
    del written["checksum"]
    assert written == members


@settings(max_examples=300, deadline=None)
@given(text=st.binary(max_size=200), cut=st.integers(0, 3000), at=st.integers(0, 3000))
def test_bytes_of_any_kind(snap: Path, text: bytes, cut: int, at: int) -> None:
    whole = (snap / MANIFEST).read_bytes()
    for each in (text, whole[:cut], whole[:at] + text + whole[at:]):
        try:
            manifest.parse(each)
        except SnapshotError as error:
            one_line(error)
        else:
            assert each == whole


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_files_of_any_kind(snap: Path, tmp_path_factory: Any, data: st.DataObject) -> None:
    """Parts of files are written over, cut or exchanged, the manifest's seal made right again."""
    work = tmp_path_factory.mktemp("work") / "snap"
    shutil.copytree(snap, work)
    names = sorted(each.name for each in work.iterdir())
    name, other = data.draw(st.permutations(names))[:2]
    content = bytearray((work / name).read_bytes())
    at = data.draw(st.integers(0, len(content)))
    kind = data.draw(st.sampled_from(["over", "cut", "exchange"]))
    if kind == "over":
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    elif kind == "cut":
        del content[at:]
    else:
        (work / name).write_bytes((work / other).read_bytes())
    if kind != "exchange":
        (work / name).write_bytes(content)
    same = (work / name).read_bytes() == (snap / name).read_bytes()
    if same:
        verify(work)
    else:
        with pytest.raises(
            SnapshotError, match=None if name == MANIFEST else f"/{name}: "
        ) as raised:
            verify(work)
        one_line(raised.value)
    shutil.rmtree(work.parent)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_manifest_of_any_kind_opens_nothing_else(snap: Path, data: st.DataObject) -> None:
    """A manifest that is right in itself, of files that are not: verified, or one clear line."""
    members = json.loads((snap / MANIFEST).read_bytes())
    del members["checksum"]
    checked = ("size", "file", "zero", "checksum")
    ways = [way for way in places(members) if way[-1] in checked and "regions" not in way]
    way = data.draw(st.sampled_from(ways))
    changed = copy.deepcopy(members)
    put(changed, way, data.draw(SCALARS | st.sampled_from(["pc.ram.ram", "vga.zero", "none"])))
    text = (snap / MANIFEST).read_bytes()
    try:
        (snap / MANIFEST).write_bytes(sealed(changed))
        verify(snap)
    except SnapshotError as error:
        one_line(error)
        assert json.dumps(changed) != json.dumps(members)
    else:
        assert changed == members
    finally:
        (snap / MANIFEST).write_bytes(text)
