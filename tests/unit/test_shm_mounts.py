"""The mount table of a process."""

import os
from pathlib import Path

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
