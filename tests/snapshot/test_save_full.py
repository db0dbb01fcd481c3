"""A disk that becomes full at one place after the other: a whole snapshot or none."""

import os
import subprocess
from pathlib import Path

import pytest

import pagecheck
from pagecheck import Coordinator
from pagecheck.errors import OutputError
from tests.support.file_systems import mounted
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")
NORMAL = 40


@pytest.mark.parametrize("compress", [None, "zstd"])
def test_at_one_place_after_the_other(
    tmp_path: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch, compress: str | None
) -> None:
    monkeypatch.setattr("pagecheck.snapshot.saving.require_room", lambda *_: None)
    pages = {page * 9: os.urandom(PAGE) for page in range(NORMAL)}
    source = sparse_file(shm_folder / "guest.ram", 9 * NORMAL, pages)
    saved = refused = 0
    with mounted(tmp_path, "tmpfs", "64K") as small, Coordinator(channels=2) as coordinator:
        for size in range(1, 2 * NORMAL + 12, 3):
            resize = ["mount", "-o", f"remount,size={size * PAGE}", str(small)]
            subprocess.run(resize, check=True)
            how = {"coordinator": coordinator, "compress": compress}
            why = ""
            try:
                pagecheck.save(source, small / "snap", **how)  # type: ignore[arg-type]
            except OutputError as error:
                why = str(error)
            if why:
                assert "No space left" in why
                assert list(small.iterdir()) == []
                refused += 1
                continue
            pagecheck.verify(small / "snap")
            subprocess.run(["rm", "-r", str(small / "snap")], check=True)
            saved += 1
    assert saved > 2
    assert refused > 10
