"""The mount table of a process."""

import os
from pathlib import Path

import pytest

from pagecheck.shm import mounts

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,nodelalloc,data=journal
30 22 0:25 / /dev/shm rw,nosuid master:2 propagate_from:3 - tmpfs tmpfs rw,size=4k,huge=advise
31 22 0:26 / /mnt/with\040blank\134 rw - fuse.sshfs user@host rw,user_id=0
"""


def test_fields(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    root, shm, ssh = mounts.read(str(table))
    assert (root.number, root.parent, root.point, root.kind) == (22, 1, "/", "ext4")
    assert (root.option("nodelalloc"), root.option("data")) == ("", "journal")
    assert (shm.option("huge"), shm.option("nosuid"), shm.option("hug")) == ("advise", "", None)
    assert (ssh.point, ssh.kind, ssh.device) == ("/mnt/with blank\\", "fuse.sshfs", (0, 26))


def test_by_device(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    known = mounts.read(str(table))
    found = mounts.of_device(os.makedev(0, 25), known)
    assert found is not None
    assert found.point == "/dev/shm"
    assert mounts.of_device(os.makedev(0, 99), known) is None


def test_without_proc(tmp_path: Path) -> None:
    assert mounts.read(str(tmp_path / "nothing")) == []


def test_the_real_table() -> None:
    found = mounts.of_device(os.stat("/dev/shm").st_dev)
    assert found is not None
    assert found.kind == "tmpfs"


# A namespace with a FUSE mount, a file system below it, a mount that hides another, and /proc.
WALK = """1 1 8:1 / / rw - ext4 /dev/sda rw
2 1 0:1 / /proc rw - proc proc rw
3 1 0:2 / {home}/fuse rw - fuse.bindfs x rw
4 3 8:2 / {home}/fuse/inner rw - xfs /dev/sdb rw
5 1 0:3 / {home}/hidden rw - tmpfs x rw
6 5 0:4 / {home}/hidden rw - nfs4 x rw
7 1 8:3 / {home}/shown/deep rw - ext4 /dev/sdc rw
8 1 0:5 / {home}/shown rw - fuse x rw
9 1 0:6 / {home}/auto rw - autofs x rw
"""


@pytest.fixture
def walk(tmp_path: Path) -> list[mounts.Mount]:
    """The table, and a few links on the steady part."""
    home = os.path.realpath(tmp_path)
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "to_fuse").symlink_to(f"{home}/fuse")
    (tmp_path / "to_plain").symlink_to("./x/../plain")
    (tmp_path / "x").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    table = tmp_path / "mountinfo"
    table.write_text(WALK.format(home=home))
    return mounts.read(str(table))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("plain", None),
        ("missing/file", None),
        ("to_plain", None),
        ("loop", None),
        ("loop/on", None),
        ("fuse", "fuse.bindfs"),
        ("fuse/ram", "fuse.bindfs"),
        ("to_fuse/ram", "fuse.bindfs"),
        ("x/../to_fuse/./ram", "fuse.bindfs"),
        ("fuse/inner/ram", "fuse.bindfs"),  # its way leads through FUSE
        ("fuse/../plain", "fuse.bindfs"),
        ("hidden/ram", "nfs4"),
        ("shown/deep/ram", "fuse"),
        ("auto/ram", "autofs"),
    ],
)
def test_the_way_of_a_path(
    walk: list[mounts.Mount], tmp_path: Path, name: str, kind: str | None
) -> None:
    assert mounts.may_stall(f"{os.path.realpath(tmp_path)}/{name}", walk) == kind


def test_a_relative_path(
    walk: list[mounts.Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mounts.may_stall("plain", walk) is None
    assert mounts.may_stall("fuse/ram", walk) == "fuse.bindfs"
    assert mounts.may_stall("../" + tmp_path.name + "/to_fuse", walk) == "fuse.bindfs"


def test_what_may_stall_is_not_looked_at(
    walk: list[mounts.Mount], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = os.readlink
    monkeypatch.setattr(mounts.os, "readlink", lambda path: looked.append(path) or real(path))
    assert mounts.may_stall(f"{os.path.realpath(tmp_path)}/to_fuse/ram", walk) == "fuse.bindfs"
    assert looked
    assert not [path for path in looked if "/fuse" in path]


def test_without_a_table() -> None:
    assert mounts.may_stall("/any/path", []) is None


def test_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"")
    memfd = os.memfd_create("ram")
    with path.open("rb") as file:
        assert mounts.descriptor_may_stall(memfd) is None
        assert mounts.descriptor_may_stall(file.fileno()) is None
        assert mounts.may_stall(f"/proc/self/fd/{memfd}") is None
        assert mounts.may_stall(f"/dev/fd/{memfd}") is None
    os.close(memfd)
    for fd in os.pipe():
        assert mounts.descriptor_may_stall(fd) is None
        os.close(fd)
    assert mounts.descriptor_may_stall(1 << 20) is None
    assert mounts.may_stall("/proc/1/root/dev/shm/f") == "proc"
    assert mounts.may_stall("/proc/self/maps") is None


def memory_device() -> str:
    """As /proc/PID/maps shows that of memfds."""
    fd = os.memfd_create("ram")
    device = os.fstat(fd).st_dev
    os.close(fd)
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def test_what_a_process_maps(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    line = "7f00-7f10 rw-s 00000000 {} 5                     {}\n"
    (folder / "mountinfo").write_text(WALK.format(home="/home"))
    for device, path, kind in (
        ("08:01", "/disk.ram", None),
        ("00:00", "", None),
        ("00:00", "[heap]", None),
        ("00:2", "/fuse/ram of the guest (deleted)", "fuse.bindfs"),
        (memory_device(), "/memfd:ram (deleted)", None),
        ("00:2", "/memfd:ram (deleted)", "fuse.bindfs"),
        ("00:fe", "/SYSV00000001 (deleted)", "another mount namespace's"),
        (memory_device(), "/SYSV00000000 (deleted)", None),
        ("ff:9", "/ram", "another mount namespace's"),
    ):
        (folder / "maps").write_text(line.format("00:00", "") + line.format(device, path))
        assert mounts.process_may_stall(7, str(tmp_path)) == kind
        private = (folder / "maps").read_text().replace("rw-s", "r-xp")  # such as a library
        (folder / "maps").write_text(private)
        assert mounts.process_may_stall(7, str(tmp_path)) is None
    assert mounts.process_may_stall(8, str(tmp_path)) is None
    assert mounts.source_may_stall(f"pid:{os.getpid()}") is None
    assert mounts.source_may_stall("pid:x") is None
    assert mounts.source_may_stall("qmp:/fuse/socket") is None
