"""Random lines, commands and descriptors: every answer is a return or a known error.

PAGECHECK_FUZZ_SECONDS makes it longer.
"""

from __future__ import annotations

import array
import json
import os
import random
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from pagecheck import errors
from pagecheck.errors import PagecheckError
from pagecheck.service.protocol import Connection
from tests.support.hostile import Witness, as_before
from tests.support.known_ram import KnownRam
from tests.support.puppets import puppet, stand_in
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService
from tests.support.users import NOBODY

SEED = 13
SECONDS = float(os.environ.get("PAGECHECK_FUZZ_SECONDS", "8"))
CLASSES = {name for name, each in vars(errors).items() if isinstance(each, type)}
NUMBERS = [0, 1, -1, 3, 31, 32, 127, 128, 4096, 4097, 1 << 30, 1 << 31, 1 << 62, 1 << 63, 1 << 64]
VALUES: list[Any] = [
    *NUMBERS,
    None,
    True,
    False,
    0.5,
    -0.1,
    1e300,
    "",
    "x",
    "x" * 500,
    [],
    {},
    [[]],
]
MEMBERS = [
    *("name", "page_size", "offset", "size", "holes", "access", "regions", "source", "block"),
    *("blocks", "ranges", "bitmap", "kind", "max_rate", "deadline", "pause", "max_pause"),
    *("progress", "slots", "slot_pages", "spin_us", "channel", "stray", "pid", "qmp", "fc", "ch"),
]
COMMANDS = [
    *("attach", "check", "close-channel", "detach", "open-channel"),
    *("query-blocks", "query-stats", "no-such"),
]


def plausible(rng: random.Random, member: str) -> Any:
    known: dict[str, list[Any]] = {
        "page_size": [4096, 8192, 1 << 21],
        "holes": ["trust", "read"],
        "access": ["auto", "map", "read"],
        "kind": ["full", "diff"],
        "block": [0, 1, 2],
        "blocks": [[0], [0, 1], [1, 0, 2]],
        "channel": [0, 1],
        "slots": [1, 16],
        "slot_pages": [1, 64, 128],
        "spin_us": [0, 10],
        "source": ["/etc/passwd", "shm:/nothing", "pid:1", "pid:0", "qmp:/dev/null", "fd:0"],
        "pid": [1, 2, os.getpid(), os.getppid(), 1 << 22, (1 << 31) - 1, 0, -1, "1", 1.0],
        "qmp": ["/dev/null", "/nowhere", "relative", "/dev/log", "/", "/" + "a/" * 2000, 1],
        "fc": ["/dev/null", "/nowhere", "relative", "", "/\0"],
        "ch": ["/dev/log", "/proc/self/root", "/proc/1/root/x", 1, None],
        "ranges": [[{"first": 0, "count": 1}], [{"gpa": 0, "size": 4096}], [{}], [1]],
        "regions": [
            [{"guest_phys_addr": 0, "memory_size": 4096, "mmap_offset": 0}],
            [{"guest_phys_addr": 0}],
        ],
        "deadline": [0.001, 1],
        "pause": [True, False],
        "bitmap": [True, False],
        "progress": [True, False],
    }
    return rng.choice(known.get(member, VALUES))


def command(rng: random.Random) -> bytes:
    arguments = {
        member: plausible(rng, member) if rng.random() < 0.8 else rng.choice(VALUES)
        for member in rng.sample(MEMBERS, rng.randrange(4))
    }
    name = rng.choice(COMMANDS)
    if name == "open-channel" and rng.random() < 0.7:
        name = "query-blocks"  # a process each
    message: dict[str, Any] = {"execute": name, "arguments": arguments, "id": rng.randrange(1000)}
    line = json.dumps(message).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(line))
        line = line[:at] + bytes([rng.randrange(256)]) + line[at + 1 :]
    return line.replace(b"\n", b" ") + b"\n"


@pytest.mark.long(but="0")
@pytest.mark.parametrize("seed", range(2))
def test_every_answer_is_known(service: ServiceProcess, seed: int) -> None:
    rng = random.Random(seed)
    ram = KnownRam(64)
    null = os.open("/dev/null", os.O_RDONLY)
    until = time.monotonic() + SECONDS / 2
    done = 0
    with as_before(service, 96 << 20), Witness(service.path):
        while time.monotonic() < until:
            with RawClient(service.path) as client:
                client.receive()
                for _ in range(rng.randrange(1, 40)):
                    fds = rng.choice([[], [], [ram.fd], [ram.fd], [null], [ram.fd, null]])
                    client.send(command(rng), fds)
                    while True:
                        message, received = client.receive()
                        for fd in received:
                            os.close(fd)
                        if "event" not in message:
                            break
                    if "error" in message:
                        assert message["error"]["class"] in CLASSES - {"InternalError"}, message
                    else:
                        assert "return" in message
                    done += 1
    assert done > 100
    os.close(null)
    ram.close()


def vm_of_somebody(rng: random.Random, folder: str) -> dict[str, Any]:
    """Arguments that name a VM, or nearly so."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    paths = [f"{folder}/{name}" for name in ("s0", "none", "../../proc/self/root", "\n", "")]
    paths += ["/proc/self/fd/0", "/proc/1/root/run", "/dev/log", "/run", "relative", "/" * 4096]
    names: dict[str, list[Any]] = {
        "pid": [*rng.sample(pids, 3), 0, -1, 1 << 31, 1.5, "1", None],
        **{kind: [*paths, 7, None, []] for kind in ("qmp", "fc", "ch")},
        "name": ["ram", "", "x" * 200, 1],
        "source": ["pid:1", "qmp:/run/x", "/etc/passwd"],
        "swapped": ["read", "leave", "no"],
        "trust_path": [True, False, 1],
    }
    kinds = rng.choices(["pid", "qmp", "fc", "ch"], [6, 1, 1, 1])
    more = rng.sample(sorted(names), rng.choice([0, 0, 0, 1, 2]))
    return {member: rng.choice(names[member]) for member in {*kinds, *more}}


@pytest.mark.long
def test_whatever_another_user_names(start_service: StartService, short_folder: Path) -> None:
    """Never a process of somebody else's, never an error of ours, and nothing is left."""
    if os.geteuid() != 0:
        pytest.skip("needs root: other users are played by setuid")
    service = start_service("--allow-uid", NOBODY)
    rng = random.Random(SEED)
    until = time.monotonic() + SECONDS
    seen: set[str] = set()
    with as_before(service, 96 << 20), stand_in(NOBODY) as vm, puppet(NOBODY) as client:
        assert "pagecheck" in client.call("connect", service.path)
        while time.monotonic() < until:
            arguments = vm_of_somebody(rng, str(short_folder))
            if rng.random() < 0.05:
                arguments = {"pid": vm.pid}
            answer = client.call("ask", {"execute": "attach", "arguments": arguments})
            if "error" in answer:
                assert answer["error"]["class"] in CLASSES - {"InternalError"}, answer
                seen.add(answer["error"]["class"])
                continue
            assert os.stat(f"/proc/{arguments['pid']}").st_uid == NOBODY
            seen.add("return")
            for block in answer["return"]["blocks"]:
                arguments = {"block": block["block"]}
                client.call("ask", {"execute": "detach", "arguments": arguments})
    assert {"return", "AccessError", "UsageError"} <= seen


@pytest.mark.parametrize("seed", range(30))
def test_every_line_gets_its_own_descriptors(seed: int) -> None:
    """However the stream is cut into pieces: one line per sendmsg, but sent in parts."""
    rng = random.Random(seed)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(theirs)
    files = [os.memfd_create(f"{n}") for n in range(8)]
    identities = [os.fstat(fd).st_ino for fd in files]
    sent: list[tuple[bytes, list[int]]] = []
    got: list[tuple[bytes, list[int]]] = []

    def drain() -> None:
        while (line := connection.receive(0)) is not None:
            got.append((line.text, [os.fstat(fd).st_ino for fd in line.fds]))
            for fd in line.fds:
                os.close(fd)

    for number in range(60):
        text = b"%d:" % number + b"x" * rng.choice([0, 1, 50, 3000])
        chosen = rng.sample(range(8), rng.choice([0, 0, 1, 2, 8]))
        rights = array.array("i", [files[n] for n in chosen])
        head = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if chosen else []
        line = text + b"\n"
        cut = rng.randrange(1, len(line) + 1)
        ours.sendmsg([line[:cut]], head)
        if rng.random() < 0.3:
            drain()
        if line[cut:]:
            ours.sendall(line[cut:])
        sent.append((text, [identities[n] for n in chosen]))
        if rng.random() < 0.5:
            drain()
    drain()
    assert got == sent
    ours.close()
    with pytest.raises(PagecheckError):
        connection.receive(0)
    connection.close()
    for fd in files:
        os.close(fd)
