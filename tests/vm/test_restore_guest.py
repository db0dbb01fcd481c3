"""Real guests, saved and brought back by `pagecheck restore`: they go on where they were."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.snapshot.verify import verify
from tests.support.command import PAGECHECK, environment, pagecheck
from tests.support.waiting import wait_for
from tests.vm.saved_guests import SavedGuest, goes_on, qemus_of, restored, save

pytestmark = pytest.mark.timeout(180)
MIB = 1 << 20


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedGuest:
    return save(tmp_path_factory.mktemp("saved") / "q35")


@pytest.fixture
def ram() -> Iterator[Path]:
    path = Path(f"/dev/shm/pctest-restore-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def command(saved: SavedGuest, log: str = "/dev/null") -> list[str]:
    return [*saved.command, "-serial", f"file:{log}"]


def test_a_guest_goes_on_in_front(saved: SavedGuest, ram: Path, tmp_path: Path) -> None:
    with restored(saved, ram, tmp_path / "log", "--ram", f"shm:/{ram.name}") as front:
        assert goes_on(front.pid, tmp_path / "log", saved.last)
        assert os.stat(ram).st_mode & 0o777 == 0o600
        assert os.stat(ram).st_blocks * 512 < 200 * MIB
        (qemu,) = qemus_of(ram)
        front.send_signal(signal.SIGTERM)
        assert front.wait(20) == 0, "QEMU's own status"
    assert not os.path.exists(f"/proc/{qemu}")
    verify(saved.directory)
    # Once more, onto the RAM that it has left.
    with restored(saved, ram, tmp_path / "log2", "--ram", str(ram), "--onto") as front:
        assert goes_on(front.pid, tmp_path / "log2", saved.last)


def test_a_report_that_cannot_be_written_leaves_no_vm_alone(
    saved: SavedGuest, ram: Path, tmp_path: Path
) -> None:
    words = [
        PAGECHECK,
        "restore",
        str(saved.directory),
        "--ram",
        str(ram),
        "--exec",
        "--json",
        "--",
    ]
    log = tmp_path / "log"
    with open("/dev/full", "w") as full:
        front = subprocess.Popen(
            [*words, *command(saved, str(log))],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    try:
        wait_for(log.exists, "QEMU is started", 60)
        assert goes_on(front.pid, log, saved.last)
        assert front.poll() is None
        front.send_signal(signal.SIGTERM)
        assert "cannot write the output" in front.communicate(timeout=20)[1]
        assert qemus_of(ram) == []
    finally:
        front.kill()
        for pid in qemus_of(ram):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_a_compressed_guest_goes_on(ram: Path, tmp_path: Path) -> None:
    saved = save(tmp_path / "saved", compress="zstd")
    stored = sum(each.stat().st_size for each in saved.directory.iterdir())
    with restored(saved, ram, tmp_path / "log", "--ram", f"shm:/{ram.name}") as front:
        assert goes_on(front.pid, tmp_path / "log", saved.last)
        assert stored < os.stat(ram).st_blocks * 512


@pytest.mark.long(but="pc-private")
@pytest.mark.parametrize(
    ("machine", "backend", "extra", "qemu"),
    [
        ("pc", "private", ("-device", "VGA"), ""),
        ("microvm", "private", (), ""),
        ("q35", "numa", (), ""),
        ("q35", "file", (), ""),
        ("q35", "private", (), "10"),
    ],
)
def test_other_machines_go_on(
    machine: str, backend: str, extra: tuple[str, ...], qemu: str, tmp_path: Path
) -> None:
    saved = save(tmp_path / "saved", machine=machine, backend=backend, extra=extra, qemu=qemu)
    files = {name: tmp_path / f"{name}.restored" for name in saved.blocks}
    given = [word for name, path in files.items() for word in ("--ram", f"{name}={path}")]
    with restored(saved, tmp_path, tmp_path / "log", *given) as front:
        assert goes_on(front.pid, tmp_path / "log", saved.last)


def test_a_vm_that_stays_stopped(saved: SavedGuest, ram: Path, tmp_path: Path) -> None:
    given = ("--ram", str(ram), "--paused", "--json")
    with restored(saved, ram, tmp_path / "log", *given) as front:
        assert front.stdout is not None
        report = json.loads(front.stdout.readline())
        assert report["pid"] == qemus_of(ram)[0]
        assert report["blocks"][0]["path"] == str(ram)
        assert (tmp_path / "log").read_text() == ""
        os.kill(report["pid"], signal.SIGKILL)
        assert front.wait(20) == 128 + signal.SIGKILL


def test_the_command_that_is_printed_works(saved: SavedGuest, ram: Path, tmp_path: Path) -> None:
    ran = pagecheck("restore", saved.directory, "--ram", ram, "--", *command(saved, "LOG"))
    assert ran.returncode == 0, ran.stderr
    line = ran.stdout.splitlines()[-1].strip().replace("LOG", str(tmp_path / "log"))
    qemu = subprocess.Popen(["sh", "-c", f"exec {line}"], stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: " OK" in _text(tmp_path / "log"), "the guest goes on", 60)
        assert "GUEST FILLED" not in _text(tmp_path / "log")
    finally:
        qemu.kill()
        qemu.wait()


def _text(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(errors="replace")
    return ""


def test_a_flipped_byte_starts_nothing(saved: SavedGuest, ram: Path, tmp_path: Path) -> None:
    for name in sorted(os.listdir(saved.directory)):
        broken = tmp_path / "broken"
        shutil.copytree(saved.directory, broken)
        with (broken / name).open("r+b") as file:
            at = os.path.getsize(broken / name) // 3
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes((byte[0] ^ 1,)))
        marker = tmp_path / "started"
        fake = tmp_path / "qemu-system-x86_64"
        fake.write_text(
            f'#!/bin/sh\n[ "$*" = "-machine help" ] && exec qemu-system-x86_64 "$@"\n>{marker}\n'
        )
        fake.chmod(0o755)
        given = [str(fake), *command(saved)[1:]]
        ran = pagecheck("restore", broken, "--ram", ram, "--exec", "--", *given)
        assert (ran.returncode, ran.stderr.count("\n")) == (5, 1), (name, ran.stderr)
        assert name in ran.stderr
        assert not ram.exists()
        assert not marker.exists()
        shutil.rmtree(broken)


def test_another_machine_is_refused_before_anything(saved: SavedGuest, ram: Path) -> None:
    given = [word if word != "q35" else "pc" for word in command(saved)]
    ran = pagecheck("restore", saved.directory, "--ram", ram, "--exec", "--", *given)
    assert ran.returncode == 2
    assert "its machine type is pc, which to this QEMU is pc-i440fx-" in ran.stderr
    assert not ram.exists()


def test_a_state_that_qemu_refuses(saved: SavedGuest, ram: Path, tmp_path: Path) -> None:
    """The manifest does not know of it: QEMU itself finds a device less."""
    given = [*command(saved), "-machine", "hpet=off"]
    ran = pagecheck("restore", saved.directory, "--ram", ram, "--exec", "--", *given)
    assert ran.returncode == 3, ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("pagecheck: qemu-system-x86_64: ended with")
    assert not ram.exists()
    assert qemus_of(ram) == []


def test_killed_at_any_moment_no_qemu_is_left_half_loaded(
    saved: SavedGuest, ram: Path, tmp_path: Path
) -> None:
    """After kill -9 of ours, a QEMU ends by itself or has the whole state, and its VM runs."""
    seen: list[bool] = []
    for number in range(60):
        log = tmp_path / f"log{number}"
        with restored(saved, ram, log, "--ram", str(ram)) as front:
            wait_for(lambda: qemus_of(ram) or front.poll() is not None, "QEMU starts", 60)
            with contextlib.suppress(subprocess.TimeoutExpired):
                front.wait(0.03 * number)
            front.kill()
            front.wait()
            wait_for(functools.partial(_runs_or_ended, ram, log), "it runs or ends", 60)
            seen.append(bool(qemus_of(ram)))
        ram.unlink(missing_ok=True)
        if seen[-1]:
            break
    assert set(seen) == {False, True}, "killed before, and after"


def _runs_or_ended(ram: Path, log: Path) -> bool:
    return "OK" in _text(log) or not qemus_of(ram)
