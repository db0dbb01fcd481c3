"""Which sockets lead to a VM, in a /proc of our own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.vmm.options import reach
from pagecheck.vmm.options.ram_options import ControlSocket
from pagecheck.vmm.options.reach import Reach, descriptors, reach_of

HEAD = "Num       RefCount Protocol Flags    Type St Inode Path\n"
LISTENS, CONNECTED = "00010000 0001 01", "00000000 0001 03"


class Fake:
    """A process's folder in /proc, and the socket that it listens on."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.path = str(folder / "s")
        for name in ("fd", "net", "ns"):
            (folder / name).mkdir()
        os.symlink("/", folder / "root")
        os.symlink(folder, folder / "cwd")
        os.symlink("/proc/self/ns/mnt", folder / "ns" / "mnt")
        self.lines = [HEAD]

    def holds(self, fd: int, path: str, state: str = LISTENS) -> None:
        inode = 1000 + len(self.lines)
        os.symlink(f"socket:[{inode}]", f"{self.folder}/fd/{fd}")
        self.lines.append(f"0000000000000000: 00000002 00000000 {state} {inode} {path}\n")
        Path(f"{self.folder}/net/unix").write_text("".join(self.lines))

    def reach(self, *sockets: ControlSocket) -> Reach:
        return reach_of(self.folder, sockets)


@pytest.fixture
def fake() -> Iterator[Fake]:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="pctest-") as folder:
        made = Fake(Path(folder))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(made.path)
            yield made


def test_a_path_that_it_listens_on(fake: Fake) -> None:
    fake.holds(5, fake.path)
    found = fake.reach(ControlSocket("ch", fake.path), ControlSocket("ch", fake.path))
    assert found == Reach((f"ch:{fake.path}",), ())


def test_a_relative_path(fake: Fake) -> None:
    fake.holds(5, "./s")
    assert fake.reach(ControlSocket("fc", "./s")).sources == (f"fc:{fake.path}",)


def test_a_descriptor(fake: Fake) -> None:
    fake.holds(5, fake.path)
    fake.holds(6, fake.path, CONNECTED)
    assert fake.reach(ControlSocket("ch", "", 5)).sources == (f"ch:{fake.path}",)
    assert fake.reach(ControlSocket("ch", "", 6)) == Reach((), ())
    assert fake.reach(ControlSocket("ch", "", 7)) == Reach((), ())


def test_a_monitor_that_has_a_client(fake: Fake) -> None:
    fake.holds(5, fake.path)
    fake.holds(6, fake.path, CONNECTED)
    assert fake.reach(ControlSocket("qmp", fake.path)) == Reach((), (f"qmp:{fake.path}",))
    assert fake.reach(ControlSocket("fc", fake.path)) == Reach((f"fc:{fake.path}",), ())


def test_a_path_that_it_does_not_listen_on(fake: Fake) -> None:
    fake.holds(5, "/other")
    assert fake.reach(ControlSocket("qmp", fake.path)) == Reach((), ())


def test_descriptors_that_cannot_be_seen_prove_nothing(fake: Fake) -> None:
    assert fake.reach(ControlSocket("qmp", fake.path)).sources == (f"qmp:{fake.path}",)
    assert fake.reach(ControlSocket("qmp", "", 5)) == Reach((), ())


@pytest.mark.parametrize("path", ["@abstract", "", "/nonexistent", "/etc/hostname", "a\0b"])
def test_what_is_no_socket(fake: Fake, path: str) -> None:
    assert fake.reach(ControlSocket("qmp", path)) == Reach((), ())


def test_crosvm_takes_its_own_program(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert fake.reach(ControlSocket("crosvm", fake.path)) == Reach((), ())
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert fake.reach(ControlSocket("crosvm", fake.path)).sources == (f"crosvm:{fake.path}",)
    assert fake.reach(ControlSocket("other", fake.path)) == Reach((), ())


def test_an_unreadable_folder_of_another_user(fake: Fake) -> None:
    for name in ("cwd", "root"):
        os.unlink(f"{fake.folder}/{name}")
    assert fake.reach(ControlSocket("qmp", "s")) == Reach((), ())
    assert fake.reach(ControlSocket("qmp", fake.path)).sources == (f"qmp:{fake.path}",)


def test_lines_that_are_not_linuxs(fake: Fake) -> None:
    fake.holds(5, fake.path)
    text = "\n".join(["x", "0: 1 2 z 1 01 7 /a", "0: 1 2 0 1 01 -7 /a", *fake.lines])
    Path(f"{fake.folder}/net/unix").write_text(text)
    assert fake.reach(ControlSocket("qmp", fake.path)).sources == (f"qmp:{fake.path}",)


def test_a_line_that_somebody_forged_in_the_path_of_another_socket(fake: Fake) -> None:
    fake.holds(5, "/real")
    forged = f"0: 00000002 00000000 {LISTENS} 1001 {fake.path}"
    fake.lines.append(f"0: 00000002 00000000 {LISTENS} 7 /tmp/x\n{forged}\n")
    Path(f"{fake.folder}/net/unix").write_text("".join(fake.lines))
    assert fake.reach(ControlSocket("qmp", "", 5)) == Reach((), ())


def test_a_path_with_blanks(fake: Fake) -> None:
    path = f"{fake.folder}/a  b"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        fake.holds(5, path)
        assert fake.reach(ControlSocket("qmp", path)).sources == (f"qmp:{path}",)


def test_a_path_that_is_too_long_for_us(fake: Fake) -> None:
    """In a root of its own it has fewer bytes."""
    folder = f"{fake.folder}/{'x' * 90}"
    os.mkdir(folder)
    os.rename(fake.path, f"{folder}/s")
    assert fake.reach(ControlSocket("fc", f"{folder}/s")) == Reach((), ())


def test_very_many_descriptors(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "_DESCRIPTORS_MAX", 3)
    for fd in range(10):
        os.symlink("/dev/null", f"{fake.folder}/fd/{fd}")
    assert len(list(descriptors(fake.folder))) == 3
    assert list(descriptors("/nonexistent")) == []
