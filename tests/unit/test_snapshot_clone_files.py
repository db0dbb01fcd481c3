"""A clone's files are made where nothing is, and only those are removed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecheck.errors import OutputError
from pagecheck.snapshot.clone_files import bound_socket, create_empty

MAKERS = [create_empty, lambda path, undo: bound_socket(path, undo).close()]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("there", ["file", "link", "dangling"])
def test_what_is_there_is_left(tmp_path: Path, there: str, make: Callable[..., None]) -> None:
    path, other = tmp_path / "clone1.qcow2", tmp_path / "other"
    if there != "dangling":
        other.write_bytes(b"mine")
    if there == "file":
        os.rename(other, path)
    else:
        path.symlink_to(other)
    before = sorted(os.listdir(tmp_path))
    with (
        contextlib.ExitStack() as undo,
        pytest.raises(OutputError, match=r"clone1\.qcow2: exists, and is left as it is"),
    ):
        make(str(path), undo)
    assert sorted(os.listdir(tmp_path)) == before
    assert there == "dangling" or path.read_bytes() == b"mine"


@pytest.mark.parametrize("make", MAKERS)
def test_it_is_its_owners_alone_and_removed(tmp_path: Path, make: Callable[..., None]) -> None:
    path = tmp_path / "made"
    with contextlib.ExitStack() as undo:
        make(str(path), undo)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", MAKERS)
def test_a_name_that_cannot_be(tmp_path: Path, make: Callable[..., None]) -> None:
    with contextlib.ExitStack() as undo, pytest.raises(OutputError, match="cannot be created: "):
        make(str(tmp_path / "none" / "x"), undo)


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with contextlib.ExitStack() as undo, pytest.raises(OutputError, match="cannot be created: "):
        bound_socket(str(tmp_path / ("x" * 120)), undo)
