"""A service of another user is given no RAM, and is not believed, unless its user is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import PeerError, SourceError
from tests.support.command import assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.service import StartService
from tests.support.users import NOBODY

pytestmark = pytest.mark.usefixtures("needs_root")

# Becomes another user, listens, greets everybody, and keeps what it is sent in a file.
FALSE_SERVICE = """
import json, os, socket, sys
path, heard, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
os.chmod(path, 0o666)
listening.listen()
print("ready", flush=True)
greeting = {"version": "0", "protocol": 1, "layout": 3, "capabilities": [], "limits": {}}
while True:
    connected, _ = listening.accept()
    with connected:
        connected.sendall(json.dumps({"pagecheck": greeting}).encode() + b"\\n")
        while data := connected.recv(4096):
            with open(heard, "ab") as file:
                file.write(data)
            error = {"class": "SourceError", "desc": "heard"}
            answer = {"error": error, "id": json.loads(data)["id"]}
            connected.sendall(json.dumps(answer).encode() + b"\\n")
"""


@pytest.fixture
def false_service(short_folder: Path) -> Iterator[tuple[str, Path]]:
    """Its socket, and the file with what it was sent."""
    short_folder.chmod(0o1777)
    path, heard = short_folder / "false", short_folder / "heard"
    command = [sys.executable, "-I", "-c", FALSE_SERVICE, str(path), str(heard), str(NOBODY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield str(path), heard
        finally:
            process.kill()


def test_it_is_given_no_ram(false_service: tuple[str, Path], known_ram: KnownRam) -> None:
    path, heard = false_service
    with Client(path) as client:
        with pytest.raises(PeerError, match=f"runs as user {NOBODY}.*--via-uid {NOBODY}"):
            client.attach(known_ram.fd)
        with pytest.raises(PeerError, match=f"runs as user {NOBODY}"):
            client.open_channel()
    assert not heard.exists()


def test_a_scan_names_the_user(false_service: tuple[str, Path], shm_folder: Path) -> None:
    path, heard = false_service
    source = shm_folder / "ram"
    source.write_bytes(b"x" * 4096)
    assert_fails(pagecheck("scan", "--via", path, source), 3, f"--via-uid {NOBODY}")
    assert not heard.exists()
    wrong = pagecheck("scan", "--via", path, "--via-uid", NOBODY - 1, source)
    assert_fails(wrong, 3, f"--via-uid {NOBODY}")


def test_who_is_named_is_trusted(false_service: tuple[str, Path], known_ram: KnownRam) -> None:
    path, heard = false_service
    with (
        Client(path, service_uid=NOBODY) as client,
        pytest.raises(SourceError, match="heard"),
    ):
        client.attach(known_ram.fd)
    assert json.loads(heard.read_text())["execute"] == "attach"


def test_a_user_goes_with_a_service() -> None:
    assert_fails(pagecheck("scan", "--via-uid", 0, "/nowhere"), 2, "--via SOCKET")


def test_root_is_trusted_by_everybody(start_service: StartService, known_ram: KnownRam) -> None:
    service = start_service("--allow-uid", NOBODY)
    program = (
        "import os, sys; from pagecheck import Client;"  # Python may lie where nobody may look
        "os.setgroups([]); os.setresgid(*[65534] * 3); os.setresuid(*[65534] * 3);"
        "client = Client(sys.argv[1]);"
        "(block,) = client.attach(3); print(client.check([block]).blocks[0].counts.zero)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, service.path],
        preexec_fn=lambda: os.dup2(known_ram.fd, 3),
        pass_fds=(3,),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(int(known_ram.zero.sum())), done.stderr
