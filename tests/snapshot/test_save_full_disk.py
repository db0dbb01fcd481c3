"""A save that meets a full disk, wherever in its files that is: one line, nothing left, and the
snapshot before untouched."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck import Coordinator
from pagecheck.errors import OutputError
from tests.support.file_systems import mounted
from tests.support.rams import PAGE

pytestmark = pytest.mark.usefixtures("clean")
PAGES = 512
STEPS = 10


def refusal(source: Path, directory: Path, coordinator: Coordinator, compress: Any) -> str | None:
    """What is said of a save that does not fit; None of one that does."""
    try:
        pagecheck.save(source, directory, coordinator=coordinator, compress=compress)
    except OutputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("compress", [None, "zstd"])
def test_at_every_tenth_of_the_ram_and_in_every_file_after_it(
    tmp_path: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch, compress: str | None
) -> None:
    monkeypatch.setattr("pagecheck.snapshot.saving.require_room", lambda *_: None)
    source = shm_folder / "guest.ram"
    source.write_bytes(os.urandom(PAGES * PAGE))
    with mounted(tmp_path, "tmpfs", "64M") as at, Coordinator(channels=1) as coordinator:
        assert refusal(source, at / "old", coordinator, None) is None
        used = os.statvfs(at).f_blocks - os.statvfs(at).f_bfree
        ends = [used + PAGES * step // STEPS for step in range(1, STEPS)]
        ends += [used + PAGES + page for page in range(6)]
        full = 0
        for pages in ends:
            resize = f"remount,size={pages * PAGE}"
            subprocess.run(["mount", "-o", resize, str(at)], check=True, timeout=20)
            said = refusal(source, at / "new", coordinator, compress)
            if said is not None:
                full += 1
                assert "No space left" in said
                assert "\n" not in said
                assert os.listdir(at) == ["old"]
            else:
                pagecheck.verify(at / "new")
                for each in (at / "new").iterdir():
                    each.unlink()
                (at / "new").rmdir()
            pagecheck.verify(at / "old")
        assert full > STEPS
        subprocess.run(["mount", "-o", "remount,size=64M", str(at)], check=True, timeout=20)
        assert refusal(source, at / "new", coordinator, compress) is None
        pagecheck.verify(at / "new")
