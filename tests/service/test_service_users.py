"""Who may use the service, as the kernel says, and what other users may do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pagecheck.service.limits import Limits
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService
from tests.support.users import NOBODY

pytestmark = pytest.mark.usefixtures("needs_root")

# Becomes another user, says what is on its stdin, and prints every line that comes back. A request
# with "fd" comes with the RAM that is descriptor 3 here.
AS_USER = """
import json, os, socket, sys
uid, path = int(sys.argv[1]), sys.argv[2]
requests = json.load(sys.stdin)
os.setgroups([])
os.setresgid(uid, uid, uid)
os.setresuid(uid, uid, uid)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
    connected.settimeout(20)
    connected.connect(path)
    lines = connected.makefile("rb")
    print(lines.readline().decode(), end="")
    for request in requests:
        with_ram = request.pop("fd", False)
        text = json.dumps(request).encode() + b"\\n"
        if with_ram:
            socket.send_fds(connected, [text], [3])
        else:
            connected.sendall(text)
        print(lines.readline().decode(), end="")
"""


def as_user(
    uid: int, path: str, requests: list[dict[str, Any]], ram: KnownRam | None = None
) -> tuple[list[dict[str, Any]], str]:
    """What the service answers another user, and what that user's program complained of."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", AS_USER, str(uid), path],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=(lambda: os.dup2(ram.fd, 3)) if ram is not None else None,
        pass_fds=(3,) if ram is not None else (),
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture
def for_nobody(start_service: StartService) -> ServiceProcess:
    """A service that lets user NOBODY in."""
    return start_service("--allow-uid", NOBODY)


def test_another_user_cannot_even_connect(service: ServiceProcess) -> None:
    answers, said = as_user(NOBODY, service.path, [])
    assert answers == []
    assert "PermissionError" in said


def test_another_user_is_refused_by_name(service: ServiceProcess) -> None:
    """Also where the socket's mode lets them connect."""
    os.chmod(service.path, 0o666)
    answers, _said = as_user(NOBODY, service.path, [])
    assert answers[0]["error"]["class"] == "AccessError"
    assert f"--allow-uid {NOBODY}" in answers[0]["error"]["desc"]
    assert "pagecheck" not in answers[0]


def test_only_those_who_are_allowed(for_nobody: ServiceProcess) -> None:
    assert as_user(NOBODY - 1, for_nobody.path, [])[0][0]["error"]["class"] == "AccessError"
    assert "pagecheck" in as_user(NOBODY, for_nobody.path, [])[0][0]


def test_another_user_checks_by_descriptor(for_nobody: ServiceProcess, known_ram: KnownRam) -> None:
    requests = [
        {"execute": "attach", "arguments": {"name": "theirs"}, "fd": True},
        {"execute": "check", "arguments": {"block": 0}},
        {"execute": "query-blocks"},
    ]
    answers, said = as_user(NOBODY, for_nobody.path, requests, known_ram)
    assert said == ""
    counts = answers[2]["return"]["blocks"][0]["counts"]
    assert counts["zero"] == int(known_ram.zero.sum())
    assert counts["hole"] == int(known_ram.hole.sum())
    assert answers[3]["return"]["blocks"][0]["name"] == "theirs"


@pytest.mark.long(but="pid:1")
@pytest.mark.parametrize(
    "source", ["{path}", "shm:/some-name", "pid:1", "qmp:/run/vm.qmp", "fd:0", "relative"]
)
def test_another_user_names_nothing(
    source: str, for_nobody: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "ram").write_bytes(bytes(4096))
    given = source.format(path=tmp_path / "ram")
    request = {"execute": "attach", "arguments": {"source": given}}
    answers, _said = as_user(NOBODY, for_nobody.path, [request])
    assert answers[1]["error"]["class"] == "AccessError"
    assert "source" in answers[1]["error"]["desc"]
    assert str(tmp_path) not in answers[1]["error"]["desc"]


def test_others_are_told_of_no_client(for_nobody: ServiceProcess, known_ram: KnownRam) -> None:
    with RawClient(for_nobody.path) as client:
        client.receive()
        client.result("attach", {"name": "secret-name"}, [known_ram.fd])
        answers, _said = as_user(NOBODY, for_nobody.path, [{"execute": "query-stats"}])
        stats = answers[1]["return"]
        assert stats["sessions"] == []
        assert stats["clients"] == 2
        assert stats["blocks"] == 1
        assert "secret-name" not in json.dumps(answers)
        mine = client.result("query-stats")["sessions"]
        assert [each["pid"] for each in mine] == [os.getpid()]


def test_another_user_sees_no_block_of_others(
    for_nobody: ServiceProcess, known_ram: KnownRam
) -> None:
    with RawClient(for_nobody.path) as client:
        client.receive()
        client.result("attach", {}, [known_ram.fd])
        requests = [
            {"execute": "query-blocks"},
            {"execute": "check", "arguments": {"block": 0}},
            {"execute": "detach", "arguments": {"block": 0}},
        ]
        answers, _said = as_user(NOBODY, for_nobody.path, requests)
        assert answers[1]["return"] == {"blocks": []}
        assert [answer["error"]["class"] for answer in answers[2:]] == ["UsageError", "UsageError"]
        assert len(client.result("query-blocks")["blocks"]) == 1


def test_a_path_that_stalls_is_not_opened(service: ServiceProcess) -> None:
    """Also root names only file systems that the kernel itself answers for."""
    with RawClient(service.path) as client:
        client.receive()
        error = client.error("attach", {"source": "/proc/self/status"})
        assert error["class"] == "SourceError"
        for source in ("relative/path", "fd:0"):
            assert client.error("attach", {"source": source})["class"] == "UsageError"


def test_blocks_larger_than_allowed(start_service: StartService, known_ram: KnownRam) -> None:
    service = start_service("--max-block-size", "15M")
    with RawClient(service.path) as client:
        client.receive()
        error = client.error("attach", {}, [known_ram.fd])
        assert error["class"] == "LimitError"
        assert "--max-block-size" in error["desc"]
        assert client.result("attach", {"size": 15 << 20}, [known_ram.fd])["block"] == 0
        client.result("detach", {"block": 0})
        part = {"offset": 4 << 20, "size": 12 << 20}
        assert client.result("attach", part, [known_ram.fd])["blocks"][0]["offset"] == 4 << 20


def test_channels_are_limited(start_service: StartService) -> None:
    service = start_service("--max-channels", 1)
    assert Limits().channels == 16
    with RawClient(service.path) as client:
        client.receive()
        client.result("open-channel")
        assert client.error("open-channel")["class"] == "LimitError"
        client.result("close-channel", {"channel": 0})
        client.result("open-channel")
