"""RAM files that a restore makes, or writes over: what is in them, and what is never touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pagecheck
from pagecheck.errors import OutputError, SnapshotError, SourceError, UsageError
from pagecheck.snapshot import ram_target
from pagecheck.snapshot import restore as restoring
from pagecheck.snapshot.verified import HeldFolder
from tests.support.command import PAGECHECK, environment
from tests.support.command import pagecheck as command
from tests.support.file_systems import mounted
from tests.support.snapshots import make_snapshot, some_ram
from tests.support.waiting import wait_for

PAGE = 4096
PAGES = 300
RAM = some_ram(PAGES)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make_snapshot(tmp_path / "saved", {"pc.ram": RAM})
    return tmp_path / "saved"


@pytest.fixture
def ram() -> Iterator[Path]:
    path = Path(f"/dev/shm/pctest-restore-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def restore(saved: Path, ram: Path | str, *, onto: bool = False) -> pagecheck.RestoreReport:
    return pagecheck.restore(saved, str(ram), onto=onto, channels=1)


@pytest.mark.parametrize("where", ["shm", "disk"])
def test_a_new_file_has_the_pages_and_the_holes(
    saved: Path, ram: Path, tmp_path: Path, where: str
) -> None:
    path = ram if where == "shm" else tmp_path / "new"
    (block,) = restore(saved, path).blocks
    assert path.read_bytes() == RAM
    assert os.stat(path).st_mode & 0o7777 == 0o600
    assert (block.normal, block.written, block.cleared) == (block.written, block.normal, 0)
    assert block.zero + block.normal == PAGES
    assert os.stat(path).st_blocks * 512 == block.normal * PAGE == block.allocated


def test_a_dense_snapshot_is_laid_out_with_holes(saved: Path, ram: Path) -> None:
    file = saved / "pc.ram.ram"
    dense = file.read_bytes()
    file.write_bytes(dense)
    assert os.stat(file).st_blocks * 512 >= len(RAM)
    (block,) = restore(saved, f"shm:/{ram.name}").blocks
    assert ram.read_bytes() == RAM
    assert os.stat(ram).st_blocks * 512 == block.normal * PAGE


def test_what_exists_is_left_as_it_is(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists, and is left as it is"):
        restore(saved, path)
    with pytest.raises(OutputError, match="has 4 bytes, and the RAM block has 1228800"):
        restore(saved, path, onto=True)
    assert path.read_bytes() == b"mine"


def test_what_is_no_file_is_refused(saved: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "real").write_bytes(bytes(len(RAM)))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        for name in ("saved", "fifo", "link", "socket"):
            for onto in (False, True):
                with pytest.raises(OutputError, match="not a regular file"):
                    restore(saved, tmp_path / name, onto=onto)
    assert (tmp_path / "real").read_bytes() == bytes(len(RAM))


@pytest.mark.parametrize("name", ["", "/", "..", "a/..", "shm:name", "shm:/a/b", "shm:/", "x\0"])
def test_what_is_no_name_is_refused(saved: Path, name: str) -> None:
    with pytest.raises((OutputError, SourceError), match=r"not a name|not a shared-memory name"):
        restore(saved, name)


@pytest.mark.parametrize("channels", [0, -1, 100_000])
def test_channels_that_cannot_be_are_refused(saved: Path, ram: Path, channels: int) -> None:
    with pytest.raises(UsageError, match=f"{channels} channels: must be 1 to"):
        pagecheck.restore(saved, str(ram), channels=channels)
    assert not ram.exists()


def test_no_folder(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=f"there is no folder {tmp_path}/none"):
        restore(saved, tmp_path / "none" / "ram")


@pytest.mark.parametrize("where", ["shm", "disk"])
def test_onto_other_ram_only_what_differs_is_written(
    saved: Path, ram: Path, tmp_path: Path, where: str
) -> None:
    path = ram if where == "shm" else tmp_path / "old"
    old = bytearray(RAM)
    for page in range(0, PAGES, 3):  # half of them zero in the snapshot
        old[page * PAGE : (page + 1) * PAGE] = b"x" * PAGE
    path.write_bytes(old)
    (block,) = restore(saved, path, onto=True).blocks
    assert path.read_bytes() == RAM
    changed = [RAM[page * PAGE : (page + 1) * PAGE] for page in range(0, PAGES, 3)]
    cleared = sum(not any(page) for page in changed)
    assert (block.written, block.cleared) == (len(changed) - cleared, cleared)
    assert not block.is_new
    # What was dense and zero stays so: nothing is cleared that is zero.
    assert block.allocated == (PAGES - cleared) * PAGE


def test_onto_the_same_ram_nothing_is_written(saved: Path, ram: Path) -> None:
    restore(saved, ram)
    before = os.stat(ram)
    (block,) = restore(saved, ram, onto=True).blocks
    assert (block.written, block.cleared) == (0, 0)
    assert os.stat(ram).st_mtime_ns == before.st_mtime_ns
    assert os.stat(ram).st_blocks == before.st_blocks


def test_ram_that_is_in_use_is_not_written_over(saved: Path, ram: Path) -> None:
    restore(saved, ram)
    old = b"y" * len(RAM)
    ram.write_bytes(old)
    with (
        ram.open("r+b"),
        pytest.raises(OutputError, match="another process has it open or mapped"),
    ):
        restore(saved, ram, onto=True)
    assert ram.read_bytes() == old


@pytest.mark.parametrize(("name", "onto"), [("new", False), ("pc.ram.ram", True)])
def test_nothing_is_restored_into_the_snapshot(
    saved: Path, tmp_path: Path, name: str, onto: bool
) -> None:
    (tmp_path / "link").symlink_to(saved)
    with pytest.raises(OutputError, match=f"{name}: is in the directory of a snapshot"):
        restore(saved, tmp_path / "link" / name, onto=onto)
    pagecheck.verify(saved)


def test_every_damaged_file_is_found_before_anything_is_written(
    saved: Path, ram: Path, tmp_path: Path
) -> None:
    make_snapshot(tmp_path / "other", {"pc.ram": some_ram(PAGES, seed=2)})
    for name in sorted(os.listdir(saved)):
        for way in ("flip", "cut", "mix"):
            broken = tmp_path / "broken"
            shutil.copytree(saved, broken)
            content = bytearray((broken / name).read_bytes())
            content[len(content) // 2] ^= 1
            if way == "cut":
                del content[-1]
            if way == "mix":
                content = bytearray((tmp_path / "other" / name).read_bytes())
            (broken / name).write_bytes(content)
            if content != (saved / name).read_bytes():
                with pytest.raises(SnapshotError, match=f"broken/.*{name[:6]}"):
                    restore(broken, ram)
            assert not ram.exists()
            shutil.rmtree(broken)


def test_a_file_that_is_written_to_after_it_was_verified(
    saved: Path, ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_unchanged = HeldFolder.require_unchanged

    def write_first(folder: HeldFolder) -> None:
        with (saved / "pc.ram.ram").open("r+b") as file:
            file.write(b"other")
        require_unchanged(folder)

    monkeypatch.setattr(HeldFolder, "require_unchanged", write_first)
    with pytest.raises(SnapshotError, match="was changed after it was verified"):
        restore(saved, ram)
    assert not ram.exists()


def test_a_state_that_is_written_to_after_it_was_verified_is_not_loaded(
    saved: Path, ram: Path
) -> None:
    with restoring.Restored(saved, str(ram), channels=1) as restored:
        (saved / "state").write_bytes(b"other")
        with pytest.raises(SnapshotError, match="state: was changed after it was verified"):
            restored.load(None)  # type: ignore[arg-type] # no QEMU is asked
    assert not ram.exists()


def test_the_file_that_was_verified_is_the_one_that_is_used(
    saved: Path, ram: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_snapshot(tmp_path / "other", {"pc.ram": some_ram(PAGES, seed=2)})
    begin = restoring.Restored._begin
    laid_out = []

    def replace_first(self: restoring.Restored, *given: Any) -> Any:
        os.replace(tmp_path / "other" / "pc.ram.ram", saved / "pc.ram.ram")
        return begin(self, *given)

    def look(target: ram_target.RamTarget) -> None:
        laid_out.append(os.pread(target.fd, len(RAM), 0))
        close(target)

    close = ram_target.RamTarget.close
    monkeypatch.setattr(restoring.Restored, "_begin", replace_first)
    monkeypatch.setattr(ram_target.RamTarget, "close", look)
    with pytest.raises(SnapshotError, match="was changed"):  # it lost its name
        restore(saved, ram)
    assert laid_out == [RAM]
    assert not ram.exists()


def test_a_target_that_is_full(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted(tmp_path, "tmpfs", "400K") as small:
        with pytest.raises(
            OutputError, match="has 0 MiB left, and the snapshot's pages take 1 MiB"
        ):
            restore(saved, small / "ram")
        monkeypatch.setattr(ram_target.RamTarget, "require_room", lambda *_given: None)
        with pytest.raises(OutputError, match=r"cannot be written: .*space") as error:
            restore(saved, small / "ram")
        assert "\n" not in str(error.value)
        assert os.listdir(small) == []


def test_a_file_that_appears_meanwhile_is_left(
    saved: Path, ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = restoring.laid_out

    def appear(*given: Any) -> object:
        ram.write_bytes(b"mine")
        return laid_out(*given)

    monkeypatch.setattr(restoring, "laid_out", appear)
    with pytest.raises(OutputError, match="was created meanwhile"):
        restore(saved, ram)
    assert ram.read_bytes() == b"mine"


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_old_ram_that_loses_its_name_meanwhile(
    saved: Path, ram: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    old = b"y" * len(RAM)
    ram.write_bytes(old)
    lay_out_onto = restoring.lay_out_onto

    def lose_it(*given: Any, **options: Any) -> object:
        ram.unlink()
        if how == "replaced":
            ram.write_bytes(old)
        return lay_out_onto(*given, **options)

    monkeypatch.setattr(restoring, "lay_out_onto", lose_it)
    with pytest.raises(OutputError, match="was removed or replaced while it was written over"):
        restore(saved, ram, onto=True)
    assert ram.exists() == (how == "replaced")
    assert not ram.exists() or ram.read_bytes() == old


@pytest.mark.parametrize("size", [0, PAGE, 257 * PAGE, len(RAM) + 1])
def test_a_snapshot_that_is_cut_before_it_is_laid_out_over_old_ram(
    saved: Path, ram: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    ram.write_bytes(b"y" * len(RAM))
    lay_out_onto = restoring.lay_out_onto

    def cut(*given: Any, **options: Any) -> object:
        os.truncate(saved / "pc.ram.ram", size)
        return lay_out_onto(*given, **options)

    monkeypatch.setattr(restoring, "lay_out_onto", cut)
    with pytest.raises(SnapshotError, match=r"was changed after it was verified.*may hold part"):
        restore(saved, ram, onto=True)


def test_a_restore_that_is_killed_leaves_no_file(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "saved", {"pc.ram": some_ram(8000)})
    target = tmp_path / "target"
    target.mkdir()
    words = ["restore", str(tmp_path / "saved"), "--ram", str(target / "ram"), "--max-rate", "4M"]
    front = subprocess.Popen([PAGECHECK, *words], env=environment(), stdout=subprocess.DEVNULL)
    wait_for(lambda: _has_open(front.pid, target), "it writes", 30)
    front.send_signal(signal.SIGKILL)
    front.wait(30)
    assert os.listdir(target) == []


def _has_open(pid: int, folder: Path) -> bool:
    for each in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{each}").startswith(f"{folder}/"):
                return True
    return False


def test_several_blocks_each_have_a_file(tmp_path: Path) -> None:
    blocks = {"node0": some_ram(20), "node1": some_ram(30, seed=2)}
    make_snapshot(tmp_path / "saved", blocks)
    paths = {name: str(tmp_path / name) for name in blocks}
    report = pagecheck.restore(tmp_path / "saved", paths, channels=1)
    assert [each.name for each in report.blocks] == ["node0", "node1"]
    for name, content in blocks.items():
        assert Path(paths[name]).read_bytes() == content
    for wrong, why in (
        (str(tmp_path / "x"), r"has 2 RAM blocks \(node0, node1\)"),
        ({"node0": str(tmp_path / "x")}, "--ram is for node0, and the snapshot's"),
        (dict.fromkeys(blocks, str(tmp_path / "x")), "one file for two"),
    ):
        with pytest.raises(UsageError, match=why):
            pagecheck.restore(tmp_path / "saved", wrong, channels=1)
    assert not (tmp_path / "x").exists()


def test_one_block_too_large_leaves_none(tmp_path: Path) -> None:
    make_snapshot(tmp_path / "saved", {"a": some_ram(20), "b": some_ram(30)})
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        pagecheck.restore(
            tmp_path / "saved", {name: str(tmp_path / name) for name in "ab"}, channels=1
        )
    assert not (tmp_path / "a").exists()


def test_the_command_prints_how_to_go_on(saved: Path, ram: Path) -> None:
    ran = command("restore", saved, "--ram", ram, "--channels", 1)
    assert ran.returncode == 0, ran.stderr
    line = ran.stdout.splitlines()[-1]
    # The snapshot's own command line.
    assert line.strip().startswith(
        "qemu-system-x86_64 -m 1M -machine memory-backend=pc.ram -object"
    )
    assert f"mem-path={ram},share=on" in line
    assert line.endswith(f"-incoming 'exec:cat {saved}/state'")


def test_memory_alone_is_laid_out(tmp_path: Path, ram: Path) -> None:
    make_snapshot(tmp_path / "saved", {"ram": RAM}, state=None, machine=None)
    ran = command("restore", tmp_path / "saved", "--ram", ram, "--channels", 1)
    assert ran.returncode == 0, ran.stderr
    assert "memory alone" in ran.stdout
    assert ram.read_bytes() == RAM
