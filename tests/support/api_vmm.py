"""Stand-ins for Firecracker and Cloud Hypervisor, as processes that a test starts and asks."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.processes import stop
from tests.support.waiting import wait_for

PROGRAM = Path(__file__).with_name("api_vmm_program.py")
SHOWN = struct.Struct("16sQ")
STATE = {"fc": "GET /", "ch": "GET /api/v1/vm.info"}
PAUSE = {"fc": "PATCH /vm", "ch": "PUT /api/v1/vm.pause"}
RESUME = {"fc": "PATCH /vm", "ch": "PUT /api/v1/vm.resume"}
CHANGES = {*PAUSE.values(), *RESUME.values()}


class ApiVmm:
    """One that runs.

    Attributes:
        kind: "fc" or "ch".
        path: its socket.
        process: it.
    """

    def __init__(
        self,
        kind: str,
        path: Path,
        *,
        state: str = "Running",
        mib: int = 32,
        shared: bool = False,
        vcpus: int = 2,
    ) -> None:
        self.kind, self.path = kind, path
        self._seen = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        given = {"kind": kind, "socket": str(path), "state": state, "mib": mib, "vcpus": vcpus}
        given |= {"shared": shared, "shown": str(self._seen)}
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(PROGRAM), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    @property
    def source(self) -> str:
        """What a scan is given."""
        return f"{self.kind}:{self.path}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def _tell(self, command: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(command), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def fail(self, faults: dict[str, str]) -> None:
        """From now on these requests go wrong."""
        self._tell({"faults": faults})

    def become(self, state: str) -> None:
        """Changes its state, past the API."""
        self._tell({"become": state})

    def write(self, page: int) -> None:
        """Its main thread writes guest RAM, as a device does."""
        self._tell({"write": page})

    def _shown(self) -> tuple[str, int]:
        """Its state and the vCPUs' rounds, seen without waking any of its threads."""
        with open(self._seen, "rb") as file:
            state, rounds = SHOWN.unpack(file.read(SHOWN.size))
        return state.rstrip(b"\0").decode(), rounds

    def state(self) -> str:
        return self._shown()[0]

    def changes(self) -> list[str]:
        """The requests that came and change something, in order."""
        return [each for each in self._tell({}) if each in CHANGES]

    def runs(self) -> bool:
        """Whether its guest works now, which page 0 shows."""
        before = self._shown()[1]
        return bool(wait_for(lambda: self._shown()[1] > before, "the guest runs"))

    def ask(self, request: str, body: str | None = None) -> tuple[int, bytes]:
        """As another client of the API."""
        client = http.client.HTTPConnection("localhost")
        client.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(client):
            client.sock.connect(str(self.path))
            method, target = request.split(" ")
            client.request(method, target, body)
            answer = client.getresponse()
            return answer.status, answer.read()

    def pause(self) -> tuple[int, bytes]:
        """By another client."""
        return self.ask(PAUSE[self.kind], '{"state": "Paused"}' if self.kind == "fc" else None)

    def resume(self) -> tuple[int, bytes]:
        """By another client."""
        return self.ask(RESUME[self.kind], '{"state": "Resumed"}' if self.kind == "fc" else None)

    def freeze(self) -> None:
        stop(self.pid)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for each in (self.process.stdin, self.process.stdout):
            assert each is not None
            with contextlib.suppress(OSError):
                each.close()


@contextlib.contextmanager
def api_vmm(kind: str, path: Path, **how: Any) -> Iterator[ApiVmm]:
    """A stand-in that ends with the block."""
    vmm = ApiVmm(kind, path, **how)
    try:
        yield vmm
    finally:
        vmm.end()
