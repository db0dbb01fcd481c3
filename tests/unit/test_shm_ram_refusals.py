"""What is no RAM source: every refusal is one clear line and the user's to mend."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck.errors import SourceError
from pagecheck.shm import ram
from pagecheck.shm.ram import adopt, open_source
from tests.support.users import lease_held, needs_root, opens_that_wait

ROOT = Path(ram.__file__).parents[2]

pytestmark = pytest.mark.usefixtures("clean")


def refuse(source: str, text: str) -> None:
    with pytest.raises(SourceError, match=text) as caught:
        open_source(source).close()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "x", "-1", "1.5", "999999"])
def test_bad_descriptor(name: str) -> None:
    refuse(f"fd:{name}", "fd:")


@pytest.mark.parametrize("number", [2**31, 10**20])
def test_a_descriptor_number_past_int(number: int) -> None:
    refuse(f"fd:{number}", "fd:")


@pytest.mark.parametrize("name", ["", "/", "x", "//x", "/a/b", "/" + "a" * 300, "/none-such"])
def test_bad_shared_memory_name(name: str) -> None:
    refuse(f"shm:{name}", "shm:")


def test_shared_memory_name_with_a_nul() -> None:
    code = (
        "from pagecheck.shm.ram import open_source\n"
        "from pagecheck.errors import SourceError\n"
        "try: open_source('shm:/a\\0b')\n"
        "except SourceError: print('refused')"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert ran.stdout == b"refused\n"


@pytest.mark.parametrize("name", ["none", "n" * 300, "nul\0nul"])
def test_path_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    refuse(f"{tmp_path}/{name}", "cannot open")


def test_directory(tmp_path: Path) -> None:
    refuse(str(tmp_path), "is a directory")


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refuse(str(tmp_path / "fifo"), "is a pipe")


def test_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        refuse(str(tmp_path / "s"), "is a socket")


def test_device() -> None:
    refuse("/dev/zero", "is a character device")


def test_pipe_as_descriptor() -> None:
    ends = os.pipe()
    refuse(f"fd:{ends[0]}", "is a pipe")
    for fd in ends:
        os.close(fd)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    refuse(str(tmp_path / "empty"), "is empty")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(ram.os, "open", refused)
    refuse(str(tmp_path / "f"), "Permission denied")


def test_a_fifo_in_dev_shm_is_not_waited_for() -> None:
    name = f"pctest-fifo-{os.getpid()}"
    os.mkfifo(f"/dev/shm/{name}")
    try:
        refuse(f"shm:/{name}", "is a pipe")
    finally:
        os.unlink(f"/dev/shm/{name}")


@needs_root
@pytest.mark.parametrize("how", ["path", "shm"])
def test_another_users_lease_is_not_waited_for(
    how: str, shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shm_folder.chmod(0o777)
    path = shm_folder / "leased"
    monkeypatch.setattr(ram, "SHM", str(shm_folder))
    with lease_held(path), opens_that_wait(monkeypatch, "leased") as waited:
        refuse(str(path) if how == "path" else "shm:/leased", "a lease")
    assert waited == []


@needs_root
def test_a_leased_descriptor_is_not_waited_for(
    shm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client passes it on: opened, then leased, by the same user."""
    fd = os.open(shm_folder / "theirs", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        with opens_that_wait(monkeypatch, str(fd)) as waited:
            with pytest.raises(SourceError, match="a lease"):
                adopt(fd, "descriptor", "ram")
            with open_source(f"fd:{fd}") as shared:  # read through their own description
                assert not shared.holes_are_proof
        assert waited == []
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, before)
        os.close(fd)
