"""The disks of a real QEMU: which can be written, and overlays for them at one moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.qemu import disks as qemu_disks
from pagecheck.vmm.qemu.disks import writable_disks, written_at
from pagecheck.vmm.qemu.leftovers import remove_leftovers
from pagecheck.vmm.qemu.overlays import Overlays
from pagecheck.vmm.qemu.state import DeviceState
from tests.support.users import NOBODY, needs_root
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu

MIB = 1 << 20


def image(path: Path, form: str = "qcow2") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", form, str(path), "16M"], check=True)
    return path


def virtio(path: Path, name: str, form: str = "qcow2", more: str = "") -> tuple[str, ...]:
    drive = f"file={path},format={form},if=none,id={name}{more}"
    return "-drive", drive, "-device", f"virtio-blk-pci,drive={name}"


def blockdev(path: Path, node: str) -> tuple[str, ...]:
    below = f"driver=qcow2,node-name={node},file.driver=file,file.filename={path}"
    return "-blockdev", below, "-device", f"virtio-blk-pci,drive={node},id=dev-{node}"


def info(path: Path) -> dict[str, Any]:
    command = ["qemu-img", "info", "-U", "--output=json", str(path)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def top_nodes(qemu: BareQemu) -> list[str]:
    return [each["inserted"]["node-name"] for each in qemu.qmp("query-block")]


def test_which_disks_can_be_written(shm_folder: Path) -> None:
    for name, size in (("flash", MIB), ("floppy", 1474560), ("cd", MIB)):
        (shm_folder / name).write_bytes(bytes(size))
    slow = f"file.driver=qcow2,file.file.driver=file,file.file.filename={image(shm_folder / 't')}"
    throttled = f"driver=throttle,throttle-group=tg,node-name=slow,{slow}"
    args = (
        *virtio(image(shm_folder / "a"), "a"),
        *virtio(image(shm_folder / "raw", "raw"), "b", "raw", ",cache=none"),
        *virtio(image(shm_folder / "unsafe"), "unsafe", "qcow2", ",cache=unsafe"),
        *blockdev(image(shm_folder / "c"), "c"),
        *virtio(image(shm_folder / "ro"), "ro", "qcow2", ",readonly=on"),
        *virtio(image(shm_folder / "temporary"), "temporary", "qcow2", ",snapshot=on"),
        *("-drive", f"file={image(shm_folder / 'unused')},if=none,id=unused"),
        *("-drive", f"if=pflash,format=raw,file={shm_folder}/flash"),
        *("-drive", f"file={shm_folder}/floppy,format=raw,if=floppy"),
        *("-drive", f"file={shm_folder}/cd,media=cdrom,if=ide,format=raw"),
        *("-object", "throttle-group,id=tg", "-blockdev", throttled),
        *("-device", "virtio-blk-pci,drive=slow", "-device", "ide-cd"),
    )
    with bare_qemu(*args, machine="pc") as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        found = {each.device: each for each in writable_disks(monitor)}
        behind = next(each for each in found.values() if each.node == "slow")
        with pytest.raises(SourceError, match="is behind a throttle node"):
            Overlays(monitor, [behind])
    del found[behind.device]
    assert sorted(found) == [
        *("/machine/peripheral/dev-c", "a", "b", "floppy0", "temporary", "unsafe")
    ]
    a, b, c = (found[each] for each in ("a", "b", "/machine/peripheral/dev-c"))
    assert (a.path, a.format, a.size) == (str(shm_folder / "a"), "qcow2", 16 * MIB)
    assert (b.path, b.format, b.direct, b.no_flush) == (str(shm_folder / "raw"), "raw", True, False)
    assert (c.path, c.drive, c.node) == (str(shm_folder / "c"), "", "c")
    assert found["unsafe"].no_flush
    assert [each.device for each in found.values() if each.is_temporary] == ["temporary"]


def test_all_disks_go_on_in_overlays(shm_folder: Path) -> None:
    args = (
        *virtio(image(shm_folder / "a"), "a"),
        *virtio(image(shm_folder / "b", "raw"), "b", "raw"),
        *blockdev(image(shm_folder / "c"), "c"),
    )
    (shm_folder / "a").chmod(0o600)
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        disks = writable_disks(monitor)
        with Overlays(monitor, disks) as overlays:
            assert top_nodes(qemu) == [each.node for each in disks], "not before it is stopped"
            assert overlays.describe() == ""
            monitor.pause(60)
            overlays.use()
            values = overlays.values()
            monitor.resume()
        assert overlays.describe().count("block-commit") == 3
        assert not {each.node for each in disks} & set(top_nodes(qemu))
        for disk, each in zip(disks, values, strict=True):
            assert (each["path"], each["kept"]) == (disk.path, "overlay")
            assert each["written_ns"] == os.stat(disk.path).st_mtime_ns
            seen = info(Path(each["overlay"]))
            assert (seen["format"], seen["virtual-size"]) == ("qcow2", 16 * MIB)
            assert seen["full-backing-filename"] == disk.path
            assert seen["backing-filename-format"] == disk.format
        assert Path(values[0]["overlay"]).stat().st_mode & 0o777 == 0o600
        # What is written from now on goes to the overlay.
        qemu.human('qemu-io a "write -P 7 0 4096"')
        assert (shm_folder / "a").stat().st_mtime_ns == values[0]["written_ns"]
        again = writable_disks(monitor)
        assert [each.path for each in again] == [each["overlay"] for each in values]
        with Overlays(monitor, again) as overlays:  # and once more
            overlays.use()
        assert len(list(shm_folder.glob("*.qcow2"))) == 6


def test_overlays_that_are_not_used_are_removed(shm_folder: Path) -> None:
    args = (*virtio(image(shm_folder / "a"), "a"), *blockdev(image(shm_folder / "c"), "c"))
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        before, nodes = sorted(shm_folder.iterdir()), top_nodes(qemu)
        count = len(qemu.qmp("query-named-block-nodes"))
        disks = writable_disks(monitor)
        with Overlays(monitor, disks):
            assert len(list(shm_folder.glob("*.qcow2"))) == 2
        with pytest.raises(
            SourceError, match=r"no overlay for disk .*c at /proc/version\.pagecheck"
        ):
            Overlays(monitor, [disks[0], disks[1]._replace(path="/proc/version")])
        assert sorted(shm_folder.iterdir()) == before
        assert top_nodes(qemu) == nodes
        assert len(qemu.qmp("query-named-block-nodes")) == count
        assert qemu.qmp("query-jobs") == []


def test_an_interrupt_while_a_file_is_made_leaves_nothing(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Overlays._ended

    def interrupted(overlays: Overlays, job: str) -> None:
        wait_for(lambda: ended(overlays, job) is not None, "the file is made")
        raise KeyboardInterrupt

    monkeypatch.setattr(Overlays, "_ended", interrupted)
    with (
        bare_qemu(*virtio(image(shm_folder / "a"), "a")) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        with pytest.raises(KeyboardInterrupt):
            Overlays(monitor, writable_disks(monitor))
        assert os.listdir(shm_folder) == ["a"]
        assert qemu.qmp("query-jobs") == []


def test_one_disk_that_refuses_keeps_all_as_they_were(shm_folder: Path) -> None:
    args = (*virtio(image(shm_folder / "a"), "a"), *virtio(image(shm_folder / "b"), "b"))
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        before, nodes = sorted(shm_folder.iterdir()), top_nodes(qemu)
        disks = writable_disks(monitor)
        with Overlays(monitor, disks) as overlays:
            gone = {"node-name": overlays._made[1].node}
            qemu.qmp("blockdev-del", **gone)
            with pytest.raises(PeerError, match="refused transaction"):
                overlays.use()
            assert overlays.describe() == ""
        assert top_nodes(qemu) == nodes
        assert sorted(shm_folder.iterdir()) == before


def test_a_folder_for_the_overlays(shm_folder: Path) -> None:
    (shm_folder / "overlays").mkdir()
    args = virtio(image(shm_folder / "a"), "a")
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        with pytest.raises(SourceError, match=r"no overlay for disk a at /nowhere/a\.pagecheck"):
            Overlays(monitor, writable_disks(monitor), "/nowhere")
        with Overlays(monitor, writable_disks(monitor), str(shm_folder / "overlays")) as overlays:
            overlays.use()
            assert Path(overlays.values()[0]["overlay"]).parent == shm_folder / "overlays"


def test_the_end_of_qemu_does_not_write_its_disks(shm_folder: Path) -> None:
    args = (
        *virtio(image(shm_folder / "a"), "a"),
        *virtio(image(shm_folder / "b", "raw"), "b", "raw", ",cache=none"),
    )
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        for each in ("a", "b"):
            qemu.human(f'qemu-io {each} "write -P 7 0 4096"')
        monitor.pause(60)
        disks = writable_disks(monitor)
        before = written_at(disks)
        qemu.qmp("quit")
        qemu.process.wait(10)
        assert written_at(disks) == before
    assert None not in before


def test_a_disk_with_a_thread_of_its_own(shm_folder: Path) -> None:
    """Its requests run elsewhere once the firmware has found it."""
    drive = f"file={image(shm_folder / 'a')},format=qcow2,if=none,id=a"
    device = "virtio-blk-pci,drive=a,iothread=io"
    args = ("-object", "iothread,id=io", "-drive", drive, "-device", device)
    with bare_qemu(*args) as qemu, QemuMonitor(str(qemu.socket)) as monitor:
        path = qemu.qmp("query-block")[0]["qdev"]
        wait_for(
            lambda: "DRIVER_OK" in qemu.human(f"info virtio-status {path}").upper(),
            "the firmware has started the disk",
            30,
        )
        with Overlays(monitor, writable_disks(monitor)) as overlays:
            monitor.pause(60)
            overlays.use()
            assert monitor.resume().stopped_by_us
        qemu.human('qemu-io a "write -P 7 0 4096"')
        assert qemu.status() == "running"
        assert info(Path(overlays.values()[0]["overlay"]))["backing-filename-format"] == "qcow2"


def test_a_qemu_that_may_not_make_files_there(shm_folder: Path) -> None:
    shm_folder.chmod(0o755)
    image(shm_folder / "a").chmod(0o666)
    with (
        bare_qemu(*virtio(shm_folder / "a", "a"), "-sandbox", "on", uid=65534) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        before = sorted(shm_folder.iterdir())
        with pytest.raises(SourceError, match=r"no overlay for disk a at .*Permission denied"):
            Overlays(monitor, writable_disks(monitor))
        assert sorted(shm_folder.iterdir()) == before
        assert qemu.status() == "running"
        with DeviceState(monitor, {"pc.ram"}) as state:  # which needs no file of QEMU's
            monitor.pause(60)
            assert state.save().devices
            monitor.resume()


def test_a_block_job_at_work(shm_folder: Path) -> None:
    with (
        bare_qemu(*virtio(image(shm_folder / "a"), "a")) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        mirror = {"target": str(shm_folder / "copy"), "sync": "full", "format": "raw"}
        qemu.qmp("drive-mirror", device="a", **mirror)
        with pytest.raises(SourceError, match=r"block job \(mirror a\) is at work on its disks"):
            Overlays(monitor, writable_disks(monitor))


def test_what_a_killed_save_left_is_removed_by_the_next(shm_folder: Path) -> None:
    with (
        bare_qemu(*virtio(image(shm_folder / "a"), "a")) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        disks = writable_disks(monitor)
        Overlays(monitor, disks)  # and then it was killed
        remove_leftovers(monitor, [str(shm_folder / "a")])
        with Overlays(monitor, disks) as overlays:
            overlays.use()
            (used,) = overlays.values()
        Overlays(monitor, writable_disks(monitor))
        # Two that hold what a guest wrote once, or may: one with what is below, one without.
        for number, name in enumerate(("below", "full")):
            path = image(shm_folder / f"{name}.pagecheck-0badcaf{number}.qcow2")
            if name == "below":
                rebase = ["qemu-img", "rebase", "-u", "-b", str(shm_folder / "a"), "-F", "qcow2"]
                subprocess.run([*rebase, str(path)], check=True)
            node = f"pagecheck-0badcaf{number}-0"
            below = {"driver": "file", "filename": str(path), "node-name": f"{node}f"}
            qemu.qmp("blockdev-add", **below)
            qemu.qmp("blockdev-add", driver="qcow2", file=f"{node}f", **{"node-name": node})
        remove_leftovers(monitor, [each.path for each in writable_disks(monitor)])
        nodes = {each["node-name"] for each in qemu.qmp("query-named-block-nodes")}
    assert sorted(shm_folder.glob("*.pagecheck-*")) == sorted(
        [Path(used["overlay"]), *shm_folder.glob("*.pagecheck-0badcaf*")]
    )
    assert {"pagecheck-0badcaf0-0", "pagecheck-0badcaf1-0"} <= nodes
    assert len([each for each in nodes if each.startswith("pagecheck-")]) == 6


class Killed(BaseException):
    """Stands for the end of the process: nothing is asked of QEMU any more."""


def test_a_save_that_was_killed_while_an_overlay_was_made(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, steps = QemuMonitor.execute, ("blockdev-create", "job-dismiss", "blockdev-add")
    left = 0

    def killed(self: QemuMonitor, command: str, *args: Any, **arguments: Any) -> Any:
        nonlocal left
        if not left:
            raise Killed
        left -= command in steps
        return execute(self, command, *args, **arguments)

    with bare_qemu(*virtio(image(shm_folder / "a"), "a"), size="32M") as qemu:
        count = len(qemu.qmp("query-named-block-nodes"))
        (shm_folder / "a.pagecheck-0badcaf0.qcow2x").touch()  # not of a save
        (shm_folder / "b.pagecheck-0badcaf0.qcow2").touch()  # of another disk
        others = set(os.listdir(shm_folder))
        for step in range(1, 6):
            left = step
            with QemuMonitor(str(qemu.socket)) as monitor:
                disks = writable_disks(monitor)
                monkeypatch.setattr(QemuMonitor, "execute", killed)
                with pytest.raises(Killed):
                    Overlays(monitor, disks)
                monkeypatch.setattr(QemuMonitor, "execute", execute)
                wait_for(
                    lambda: all(each["status"] == "concluded" for each in qemu.qmp("query-jobs")),
                    "the file is made",
                )
                assert set(os.listdir(shm_folder)) > others
                remove_leftovers(monitor, [each.path for each in disks])
            assert set(os.listdir(shm_folder)) == others
            assert len(qemu.qmp("query-named-block-nodes")) == count
            assert qemu.qmp("query-jobs") == []


def test_the_file_of_an_overlay_with_data_is_kept(shm_folder: Path) -> None:
    """Its node was removed by hand, say; and one is not of a save."""
    with (
        bare_qemu(*virtio(image(shm_folder / "a"), "a")) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        names = ["a.pagecheck-0badcaf0.qcow2", "a.pagecheck-0badcaf1.qcow2", "mine"]
        for number, name in enumerate(names):
            path = image(shm_folder / name)
            if number == 0:
                subprocess.run(["qemu-io", "-c", "write -P 7 0 512", str(path)], check=True)
            node = f"pagecheck-0badcaf{number}-0f"
            below = {"driver": "file", "filename": str(path), "node-name": node}
            qemu.qmp("blockdev-add", **below)
        remove_leftovers(monitor, [str(shm_folder / "a")])
        assert sorted(os.listdir(shm_folder)) == ["a", names[0], "mine"]
        assert "pagecheck-0badcaf0-0f" in qemu.human("info block -n")


def test_a_disk_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is waited for while a VM is stopped; what is not known is not told."""
    paths = [tmp_path / name for name in ("first", "stalled", "none")]
    for path in paths[:2]:
        path.write_bytes(b"")
    look, answers = qemu_disks.os.stat, threading.Event()
    held = []

    def stat(path: str) -> os.stat_result:
        if path.endswith("stalled"):
            held.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
            answers.wait()
        return look(path)

    monkeypatch.setattr(qemu_disks, "LOOK_S", 0.05)
    monkeypatch.setattr(qemu_disks, "os", SimpleNamespace(stat=stat))
    disks: Any = [SimpleNamespace(path=str(path)) for path in paths]
    assert written_at(disks) == [paths[0].stat().st_mtime_ns, None, None]
    assert held == [{signal.SIGINT, signal.SIGTERM, signal.SIGHUP}]
    answers.set()
    monkeypatch.setattr(qemu_disks, "LOOK_S", 60.0)
    times = [path.stat().st_mtime_ns for path in paths[:2]]
    assert written_at(disks) == [*times, None]
    assert written_at([]) == []


@needs_root
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_mode_of_no_other_file_is_changed(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch, link: Callable[[Path, str], None]
) -> None:
    """Whoever QEMU is puts another file in the place of the one that it made."""
    other = shm_folder / "other"
    other.write_bytes(b"")
    other.chmod(0o600)
    execute = QemuMonitor.execute

    def swapped(self: QemuMonitor, command: str, *args: Any, **arguments: Any) -> Any:
        found = execute(self, command, *args, **arguments)
        for path in shm_folder.glob("*.pagecheck-*") if command == "job-dismiss" else ():
            if not path.samefile(other):
                path.unlink()
                link(other, str(path))
        return found

    with (
        bare_qemu(*virtio(image(shm_folder / "a"), "a")) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        (shm_folder / "a").chmod(0o666)
        disks = writable_disks(monitor)
        monkeypatch.setattr(QemuMonitor, "execute", swapped)
        Overlays(monitor, disks).close()
    assert other.stat().st_mode & 0o777 == 0o600


@needs_root
def test_no_file_of_another_user_is_removed(shm_folder: Path) -> None:
    """QEMU says what is an overlay, and its user may be nobody's friend."""
    shm_folder.chmod(0o777)
    image(shm_folder / "a").chmod(0o666)
    args = (*virtio(shm_folder / "a", "a"), "-S")
    with (
        bare_qemu(*args, uid=NOBODY) as qemu,
        QemuMonitor(str(qemu.socket)) as monitor,
    ):
        names = [f"a.pagecheck-0badcaf{number}.qcow2" for number in range(4)]
        for name in names[:2]:
            image(shm_folder / name).chmod(0o666)
        for name in names[2:]:
            (shm_folder / name).write_bytes(b"")
        for name in names[1::2]:
            os.chown(shm_folder / name, NOBODY, NOBODY)
        for number in range(2):
            node = f"pagecheck-0badcaf{number}-0f"
            below = {"driver": "file", "filename": str(shm_folder / names[number])}
            qemu.qmp("blockdev-add", **below, **{"node-name": node})
        remove_leftovers(monitor, [str(shm_folder / "a")])
    assert sorted(os.listdir(shm_folder)) == ["a", names[0], names[2]]
