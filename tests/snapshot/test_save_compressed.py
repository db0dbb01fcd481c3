"""`pagecheck save --compress zstd`: the same RAM in fewer bytes."""

import json
import os
import random
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import EngineError, UsageError
from pagecheck.snapshot import manifest, ram_files
from pagecheck.snapshot.files import Folder
from pagecheck.snapshot.pace import Pace
from pagecheck.snapshot.ram_files import open_ram
from tests.support import command
from tests.support.rams import PAGE, sparse_file

pytestmark = pytest.mark.usefixtures("clean")
PAGES = 700


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = random.Random(1)
    text = (b"what a guest has in its memory " * 200)[:PAGE]
    data = dict.fromkeys(range(0, 256, 3), text)
    data |= {page: rng.randbytes(PAGE) for page in range(520, 700, 7)}
    return sparse_file(tmp_path / "guest.ram", PAGES, data)


def content_of(directory: Path) -> bytes:
    snapshot = manifest.read(directory)
    (block,) = snapshot.blocks
    content = bytearray(block.size)
    with Folder(directory) as folder:
        fd, ram = open_ram(folder, block, snapshot.page_bytes)
        for at in ram.with_data():
            size = min(1 << 20, block.size - at)
            content[at : at + size] = ram.read(at, bytearray(size))
        os.close(fd)
    return bytes(content)


def test_it_is_the_same_in_fewer_bytes(source: Path, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    progress = lambda done, total: shown.append((done, total))  # noqa: E731
    report = pagecheck.save(source, tmp_path / "snap", compress="zstd", progress=progress)
    plain = pagecheck.save(source, tmp_path / "plain")
    assert content_of(tmp_path / "snap") == source.read_bytes()
    assert report.bytes_stored < plain.bytes_stored / 2
    assert report.blocks[0].file.endswith(".ram.zst")
    assert sorted(os.listdir(tmp_path)) == ["guest.ram", "plain", "snap"]
    pagecheck.verify(tmp_path / "snap")
    bitmaps = [(tmp_path / each / "guest.ram.zero").read_bytes() for each in ("snap", "plain")]
    assert bitmaps[0] == bitmaps[1]
    assert shown[-1][0] == shown[-1][1] == 3 * PAGES * PAGE
    assert shown == sorted(shown)


@pytest.mark.parametrize("rate", [None, 1 << 40])
def test_every_pass_keeps_to_the_rate(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int | None
) -> None:
    """The checksums' and the compression's too, together."""
    taken: list[tuple[int | None, int]] = []
    take = Pace.take

    def noted(pace: Pace, size: int) -> int:
        taken.append((pace._rate, size))
        return take(pace, size)

    monkeypatch.setattr(Pace, "take", noted)
    pagecheck.save(source, tmp_path / "snap", compress="zstd", max_rate=rate)
    assert {found for found, _ in taken} == {rate}
    assert sum(size for _, size in taken) >= 2 * (256 + 188) * PAGE


def test_the_command(source: Path, tmp_path: Path) -> None:
    done = command.pagecheck("save", "--json", "--compress", "zstd", source, tmp_path / "snap")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["blocks"][0]["file"] == "guest.ram.ram.zst"
    assert "zstd" in command.pagecheck("info", tmp_path / "snap").stdout
    assert command.pagecheck("verify", tmp_path / "snap").returncode == 0


def test_what_is_refused_before_anything_is_done(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="compress"):
        pagecheck.save(source, tmp_path / "snap", compress="gzip")  # type: ignore[arg-type]

    def missing() -> None:
        raise EngineError("missing")

    monkeypatch.setattr("pagecheck.snapshot.save.zstd", missing)
    assert ram_files.zstd is not missing
    with pytest.raises(EngineError, match="missing"):
        pagecheck.save(source, tmp_path / "snap", compress="zstd")
    assert os.listdir(tmp_path) == ["guest.ram"]
