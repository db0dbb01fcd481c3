"""Lines on sources that cannot be scanned say what they are and what to do."""

import grp
import gzip
import os
import pwd
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pagecheck.errors import ResourceError, SourceError
from pagecheck.plan import make_block
from pagecheck.shm import ram as ram_module
from pagecheck.shm.ram import open_source
from tests.support.users import as_nobody

MIB = 1 << 20


def line(source: object) -> str:
    """What is said of a source."""
    with pytest.raises(SourceError) as caught:
        open_source(str(source))
    text = str(caught.value)
    assert text.startswith(f"{source}: ")
    assert "\n" not in text
    return text


def sized(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_folder_names_what_looks_like_ram(tmp_path: Path) -> None:
    sized(tmp_path / "disk.img", 64 * MIB)
    sized(tmp_path / "memory-ranges", 16 * MIB)
    sized(tmp_path / "odd", 16 * MIB + 1)
    sized(tmp_path / "small", 4096)
    (tmp_path / "more").mkdir()
    (tmp_path / "link").symlink_to("memory-ranges")
    data = gzip.compress(os.urandom(2 * MIB))
    (tmp_path / "mem.gz").write_bytes(data + bytes(-len(data) % 4096))
    text = line(tmp_path)
    assert "is a directory" in text
    assert text.endswith(f"{tmp_path}/memory-ranges (16 MiB), {tmp_path}/disk.img (64 MiB)")


def test_a_folder_of_many(tmp_path: Path) -> None:
    for n in range(6):
        sized(tmp_path / f"vm{n}.ram", MIB)
    assert line(tmp_path).endswith("vm3.ram (1 MiB) and 3 more")


def test_a_folder_without_ram(tmp_path: Path) -> None:
    sized(tmp_path / "config.json", 100)
    assert "none in it looks like one" in line(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "none in it looks like one" in line(tmp_path / "empty")


def test_the_nearest_name(tmp_path: Path) -> None:
    for name in ("guest.ram", "GUEST2.ram", "other"):
        (tmp_path / name).touch()
    assert line(tmp_path / "gest.ram").endswith(f"the nearest name is {tmp_path}/guest.ram")
    assert line(tmp_path / "guest2.ram").endswith(f"the nearest name is {tmp_path}/GUEST2.ram")
    text = line(tmp_path / "nothing-like-it")
    assert text.endswith("cannot open: No such file or directory")


def test_the_nearest_name_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    text = line(tmp_path / "snapshot" / "vm1" / "mem")
    assert text.endswith(f"the nearest name is {tmp_path}/snapshots")
    text = line(tmp_path / "elsewhere" / "vm1" / "mem")
    assert text.endswith(f"there is no {tmp_path}/elsewhere")


def test_a_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "guest.ram").touch()
    assert line("guestram").endswith("the nearest name is guest.ram")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    assert "is a symbolic link to gone, which does not exist" in line(tmp_path / "link")


def test_other_spellings() -> None:
    assert "the source is empty" in line("")
    assert f"as pid:{os.getpid()}" in line(os.getpid())
    assert "fc: is not a kind of source; use fd:N" in line("fc:/run/vm.sock")
    assert "a pipe cannot be scanned" in line("-")
    assert "fd:0" in line("-")


def test_shared_memory(tmp_path: Path) -> None:
    name = f"pc-hints-{os.getpid()}"
    sized(Path("/dev/shm") / name, 0)
    try:
        assert line(f"shm:/{name}x").endswith(f"the nearest name is shm:/{name}")
        assert "is empty" in line(f"shm:/{name}")
    finally:
        os.unlink(f"/dev/shm/{name}")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/proc/self/maps", "pid:PID"),
        ("/sys/kernel/notes", "pid:PID"),
        ("/dev/null", "character device"),
    ],
)
def test_files_of_the_kernel(path: str, words: str) -> None:
    if not os.path.exists(path) or (os.stat(path).st_size and stat.S_ISREG(os.stat(path).st_mode)):
        pytest.skip(f"{path} is not here, or has a size")
    assert words in line(path)


def test_pipes_and_sockets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe, which cannot be scanned" in line(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "qmp"))
        assert "qmp:SOCKET" in line(tmp_path / "qmp")


def told_to_nobody(look: Callable[[], str]) -> str:
    """What another user is told; in a child, which cannot come back to root."""
    pwd.getpwall(), grp.getgrall()  # loaded while that may be
    line("/nowhere")
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            as_nobody()
            os.write(write, look().encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
class TestWhoMay:
    @pytest.fixture(autouse=True)
    def _reachable(self, shm_folder: Path) -> None:
        shm_folder.chmod(0o755)

    def test_a_file(self, shm_folder: Path) -> None:
        path = sized(shm_folder / "ram", MIB)
        path.chmod(0o640)
        text = told_to_nobody(lambda: line(path))
        assert "Permission denied; it is root's (group root, mode 0640); run pagecheck as" in text

    def test_a_folder_on_the_way(self, shm_folder: Path) -> None:
        (shm_folder / "a").mkdir(mode=0o700)
        sized(shm_folder / "a" / "ram", MIB)
        text = told_to_nobody(lambda: line(shm_folder / "a" / "ram"))
        assert f"the folder {shm_folder}/a is root's (group root, mode 0700)" in text

    def test_an_owner_without_a_name(self, shm_folder: Path) -> None:
        path = sized(shm_folder / "ram", MIB)
        path.chmod(0o600)
        os.chown(path, 3999999, 3999999)
        text = told_to_nobody(lambda: line(path))
        assert "is 3999999's (group 3999999, mode 0600)" in text

    def test_root_itself(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(ram_module.os, "open", refuse)
        assert "not permitted even to root" in line(sized(tmp_path / "ram", MIB))


def test_a_shortage_is_none_of_the_file_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(24, "Too many open files")

    path = sized(tmp_path / "ram", MIB)
    monkeypatch.setattr(ram_module.os, "open", refuse)
    with pytest.raises(ResourceError, match=r"cannot open: this process may have .* open files"):
        open_source(path)


@pytest.mark.parametrize(
    ("size", "page", "words", "without"),
    [
        (5 * 4096, 8192, "give --page-size 4096", "truncated"),
        (6 * 4096, 65536, "give --page-size 8192", "truncated"),
        (5000, 4096, "--length 4096", "--page-size"),
        (5000, 8192, "less than a page", "--page-size"),
        (100, 4096, "less than a page", "--page-size"),
    ],
)
def test_a_size_that_does_not_fit(size: int, page: int, words: str, without: str) -> None:
    with pytest.raises(SourceError) as caught:
        make_block("ram", size, page)
    assert words in str(caught.value)
    assert without not in str(caught.value)


def test_a_folder_is_looked_at_within_bounds(tmp_path: Path) -> None:
    """A folder with very many names answers soon, whatever is in it."""
    script = f"cd {tmp_path} && seq 20000 | xargs touch"
    subprocess.run(["sh", "-c", script], check=True)
    assert "is a directory" in line(tmp_path)
    assert "No such file" in line(tmp_path / "nothing")
