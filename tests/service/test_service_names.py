"""What a client names is what the service opens, or nothing: another namespace, another file."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pagecheck import Client
from pagecheck.errors import PeerError, SourceError
from tests.support.command import PAGECHECK, assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.puppets import puppet
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces of its own")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file on disk: the service opens it itself, by its name."""
    ram = KnownRam(256, path=tmp_path / "disk.ram")
    ram.close()
    if os.statvfs(tmp_path).f_fsid == os.statvfs("/dev/shm").f_fsid:
        pytest.skip(f"{tmp_path} is not on disk")
    return tmp_path / "disk.ram"


def seen(path: str | os.PathLike[str]) -> dict[str, int]:
    st = os.stat(path)
    return {"device": st.st_dev, "inode": st.st_ino}


def refused(client: RawClient, arguments: dict[str, Any]) -> str:
    error = client.error("attach", arguments)
    assert error["class"] == "SourceError"
    return error["desc"]


def test_a_file_of_the_same_name(client: RawClient, disk: Path) -> None:
    expect = seen(disk)
    client.result("attach", {"source": str(disk), "name": "a", "expect": expect})
    client.result("attach", {"source": str(disk), "name": "b"})
    os.link(disk, f"{disk}.old")
    disk.unlink()
    disk.write_bytes(bytes(1 << 20))
    told = refused(client, {"source": str(disk), "expect": expect})
    assert "is for the service another file" in told
    expect["device"] += 1
    assert "another file" in refused(client, {"source": f"{disk}.old", "expect": expect})


def test_processes_and_sockets(client: RawClient, short_folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, puppet() as process:
        listener.bind(str(short_folder / "qmp"))
        here = f"pid:{process.pid}"
        wrong = {"device": 1, "inode": 1}
        told = refused(client, {"source": here, "expect": wrong})
        assert "another process: it is in another pid namespace" in told
        told = refused(client, {"source": here, "expect": seen("/proc/self/ns/pid")})
        assert "namespace" not in told  # but this is no VMM
        qmp = f"qmp:{short_folder}/qmp"
        told = refused(client, {"source": qmp, "expect": wrong})
        assert "another socket: it is in another mount namespace" in told
        told = refused(client, {"source": qmp, "expect": seen(short_folder / "qmp")})
        assert "nobody listens" in told
        told = refused(client, {"source": f"{qmp}x", "expect": wrong})
        assert "does not see it" in told


@needs_root
def test_a_client_in_another_mount_namespace(service: ServiceProcess, disk: Path) -> None:
    """It has another file under the same path: the service's is not answered in its place."""
    other = disk.with_name("other")
    other.write_bytes(b"x" * (1 << 20))
    here = pagecheck("scan", "--via", service.path, disk)
    assert here.returncode == 0
    scan = f"mount --bind {other} {disk} && exec {PAGECHECK} scan --via {service.path} {disk}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", scan],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert_fails(done, 2, "is for the service another file")


@needs_root
def test_a_client_in_another_pid_namespace(service: ServiceProcess) -> None:
    command = ["unshare", "--pid", "--fork", PAGECHECK, "scan", "--via", service.path, "pid:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert_fails(done, 2, "another process: it is in another pid namespace")


def test_a_service_that_cannot_compare(service: ServiceProcess, disk: Path) -> None:
    with Client(service.path) as client:
        client.greeting["capabilities"].remove("expect")
        with pytest.raises(PeerError, match=r"cannot prove that .* is the same there"):
            client.attach(disk)


def test_a_socket_that_is_not_there(service: ServiceProcess, tmp_path: Path) -> None:
    with Client(service.path) as client, pytest.raises(SourceError, match="cannot be seen here"):
        client.attach(f"qmp:{tmp_path}/nothing")


@pytest.mark.long(but="arguments0")
@pytest.mark.parametrize(
    "arguments",
    [
        {"source": "/x", "expect": None},
        {"source": "/x", "expect": {}},
        {"source": "/x", "expect": {"device": 1, "inode": 2, "more": 3}},
        {"source": "/x", "expect": {"device": -1, "inode": 2}},
        {"source": "/x", "expect": {"device": 1, "inode": "2"}},
        {"source": "/x", "trust_path": True},
        {"source": "/x", "trust_path": 1},
    ],
)
def test_what_makes_no_sense(client: RawClient, arguments: dict[str, Any]) -> None:
    assert client.error("attach", arguments)["class"] == "UsageError"


def test_a_descriptor_needs_no_identity(client: RawClient, known_ram: KnownRam) -> None:
    for more in ({"trust_path": True}, {"expect": {"device": 1, "inode": 1}}):
        assert client.error("attach", more, [known_ram.fd])["class"] == "UsageError"
