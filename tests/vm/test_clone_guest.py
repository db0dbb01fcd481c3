"""Real guests from one snapshot: each goes on, none changes it, and nothing of theirs is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.snapshot.clone_files import new_folder
from pagecheck.snapshot.verify import verify
from tests.support.command import PAGECHECK, environment, pagecheck
from tests.support.needs import needs_program
from tests.support.waiting import wait_for
from tests.vm.saved_guests import SavedGuest, end_qemus, qemus_of, save
from tools.guest import RunningGuest

pytestmark = pytest.mark.timeout(180)
MIB = 1 << 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedGuest:
    return save(tmp_path_factory.mktemp("saved") / "q35")


def words(saved: SavedGuest, folder: Path, count: int, *options: str) -> list[str]:
    return [
        *("clone", str(saved.directory), "-n", str(count), "--json"),
        *("--qmp-folder", str(folder), *options),
        *("--", *saved.command, "-serial", f"file:{folder}-{{n}}.log"),
    ]


@contextlib.contextmanager
def cloned(
    saved: SavedGuest, folder: Path, count: int, *options: str
) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    front = subprocess.Popen(
        [PAGECHECK, *words(saved, folder, count, *options)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert front.stdout is not None
        yield front, json.loads(front.stdout.readline())["clones"]
    finally:
        front.terminate()
        front.wait(60)
        end_qemus(folder)
        front.communicate()


@pytest.mark.long
def test_four_at_once_each_go_on(saved: SavedGuest, tmp_path: Path) -> None:
    folder = tmp_path / "clones"
    before = {each.name: os.stat(each).st_mtime_ns for each in saved.directory.iterdir()}
    with cloned(saved, folder, 4) as (front, clones):
        assert sorted(qemus_of(folder)) == sorted(each["pid"] for each in clones)
        for each in clones:
            log = Path(f"{folder}-{each['number']}.log")
            with RunningGuest.on_file(each["pid"], log) as guest:
                assert guest.goes_on(saved.last) > saved.last
            assert 0 < each["private_bytes"] <= each["pss_bytes"] < 200 * MIB
            assert Path(each["qmp"]).is_socket()
        # What one writes is its own: the others count on, and the snapshot verifies.
        verify(saved.directory)
        front.send_signal(signal.SIGTERM)
        assert front.wait(60) == 0
    assert {each.name: os.stat(each).st_mtime_ns for each in saved.directory.iterdir()} == before
    assert not folder.exists()
    assert qemus_of(folder) == []


@pytest.mark.long
def test_each_disk_has_an_overlay(saved: SavedGuest, tmp_path: Path) -> None:
    needs_program("qemu-img", "qemu-utils")
    folder, image = tmp_path / "clones", tmp_path / "base, 1.raw"
    image.write_bytes(b"x" * MIB)
    disk = f"id=d,if=none,format=raw,file={str(image).replace(',', ',,')}"
    with_disk = saved._replace(command=[*saved.command, "-drive", disk])
    ran = pagecheck(*words(with_disk, folder, 2))
    assert ran.returncode == 2
    assert "-drive d: all clones would write to one disk" in ran.stderr
    options = ("--disks", "overlay", "--overlay-folder", str(folder), "--paused")
    with cloned(with_disk, folder, 2, *options) as (_front, clones):
        assert [each["overlays"] for each in clones] == [
            [f"{folder}/clone{number}-d.qcow2"] for number in (1, 2)
        ]
        for each in clones:
            assert Path(f"{folder}-{each['number']}.log").read_text() == "", "it is paused"
            assert os.path.exists(each["overlays"][0])
    assert image.read_bytes() == b"x" * MIB
    assert not folder.exists()


def test_overlays_stay_while_a_killed_ones_vm_runs(
    saved: SavedGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its QMP socket is elsewhere: the overlays alone are in a folder of pagecheck's own."""
    needs_program("qemu-img", "qemu-utils")
    folder, image, place = tmp_path / "clones", tmp_path / "base.raw", tmp_path / "place"
    image.write_bytes(b"x" * MIB)
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))

    def after_the_next() -> list[Path]:
        with contextlib.ExitStack() as undo:
            new_folder(undo)
        return list(place.iterdir())

    disk = f"id=d,if=none,format=raw,file={image}"
    with_disk = saved._replace(command=[*saved.command, "-drive", disk])
    with cloned(with_disk, folder, 1, "--disks", "overlay", "--paused") as (front, clones):
        (overlay,) = map(Path, clones[0]["overlays"])
        assert overlay.parent.parent == place
        front.kill()
        front.wait()
        assert qemus_of(folder) == [clones[0]["pid"]]
        assert after_the_next() == [overlay.parent]
        assert overlay.exists()
        end_qemus(folder)
        wait_for(lambda: after_the_next() == [], "what it left is removed")  # a moment later


def test_a_damaged_snapshot_starts_none(saved: SavedGuest, tmp_path: Path) -> None:
    folder, broken = tmp_path / "clones", tmp_path / "broken"
    shutil.copytree(saved.directory, broken)
    with (broken / "state").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes((byte[0] ^ 1,)))
    ran = pagecheck(*words(saved._replace(directory=broken), folder, 2))
    assert (ran.returncode, ran.stderr.count("\n")) == (5, 1)
    assert not folder.exists()
    assert qemus_of(folder) == []


def test_one_that_does_not_start_ends_all(saved: SavedGuest, tmp_path: Path) -> None:
    folder = tmp_path / "clones"
    folder.mkdir()
    (folder / "clone2.qmp").write_text("mine")
    ran = pagecheck(*words(saved, folder, 2))
    assert ran.returncode == 2
    assert "clone2.qmp: exists, and is left as it is" in ran.stderr
    assert qemus_of(folder) == []
    assert os.listdir(folder) == ["clone2.qmp"]


def test_the_end_of_one_leaves_the_others(saved: SavedGuest, tmp_path: Path) -> None:
    folder = tmp_path / "clones"
    with cloned(saved, folder, 2, "--paused") as (front, clones):
        os.kill(clones[0]["pid"], signal.SIGKILL)
        wait_for(lambda: qemus_of(folder) == [clones[1]["pid"]], "the first is gone", 20)
        assert front.poll() is None
        os.kill(clones[1]["pid"], signal.SIGTERM)
        assert front.wait(20) == 128 + signal.SIGKILL


def test_killed_while_they_start_none_is_left_half_loaded(
    saved: SavedGuest, tmp_path: Path
) -> None:
    """Each ends by itself, or has its whole state and goes on."""
    folder = tmp_path / "clones"
    front = subprocess.Popen(
        [PAGECHECK, *words(saved, folder, 3)], stdout=subprocess.DEVNULL, env=environment()
    )
    try:
        wait_for(lambda: len(qemus_of(folder)) >= 2, "they start", 60)
        front.kill()
        assert front.wait() == -signal.SIGKILL
        wait_for(lambda: all(map(_goes_on, qemus_of(folder))), "all end or go on", 60)
    finally:
        front.kill()
        front.wait()
        end_qemus(folder)


def _goes_on(pid: int) -> bool:
    """Whether a clone's console says that its memory was right since."""
    with contextlib.suppress(FileNotFoundError):  # it ended, or has no console yet
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        logs = [word.removeprefix("file:") for word in words if word.startswith("file:")]
        return any("OK" in Path(log).read_text() for log in logs)
    return False
