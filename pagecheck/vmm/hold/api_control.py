"""What a hold needs of Firecracker and of Cloud Hypervisor, by their HTTP APIs.

Facts: neither API reports by itself that the VM was continued. Firecracker pauses a VM that is
paused and continues one that runs, without an error; where a vCPU does not answer, `pause` fails
with some vCPUs stopped and the state still Running. Cloud Hypervisor refuses both, and a refused
`pause` has changed nothing that `resume` could undo. Decision: a Firecracker whose `pause` failed
is continued whatever its state; a Cloud Hypervisor that refused was stopped by somebody else, if it
is stopped. Whether RAM was unchanged is proved by threads that did not run (see `threads.py`). Left
unhandled: an operator who continues a VM that we hold and pauses it again leaves no trace, and that
pause ends with our hold.

Source: Firecracker's swagger file, and pause_vm() in its src/vmm/src/lib.rs; Cloud Hypervisor's
cloud-hypervisor.yaml, api/http and VmState::valid_transition() in its vmm/src.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pagecheck.errors import InternalError, PeerError
from pagecheck.printable import printable
from pagecheck.vmm.answers import Answer
from pagecheck.vmm.hold.controller import Carried, Lost, Refused, Seen, Silent, Step, Untouched
from pagecheck.vmm.hold.http import HttpClient, Reply, Request
from pagecheck.vmm.hold.listener import CONNECT_S, Listener, VmmSocket
from pagecheck.vmm.kinds import CLOUD_HYPERVISOR, FIRECRACKER, VmmKind
from pagecheck.vmm.process.threads import StoppedProof, threads_of

RUNNING: Final = "Running"
PAUSED: Final = "Paused"
NO_VM: Final = "no VM"  # a status of ours: the VMM runs, and has none
_CAUSE_CHARS: Final = 200
_PARSED_BYTES: Final = 65536


class Api(NamedTuple):
    """The words of one API.

    Attributes:
        state: answers with the member `state`.
        resumes_running: `cont` is accepted where the VM runs.
    """

    state: Request
    stop: Request
    cont: Request
    resumes_running: bool


APIS: Final = {
    FIRECRACKER: Api(
        state=Request("GET", "/"),
        stop=Request("PATCH", "/vm", json.dumps({"state": "Paused"})),
        cont=Request("PATCH", "/vm", json.dumps({"state": "Resumed"})),
        resumes_running=True,
    ),
    CLOUD_HYPERVISOR: Api(
        state=Request("GET", "/api/v1/vm.info"),
        stop=Request("PUT", "/api/v1/vm.pause"),
        cont=Request("PUT", "/api/v1/vm.resume"),
        resumes_running=False,
    ),
}


class ApiControl:
    """A VMM with an HTTP API; see `controller.Controller`."""

    def __init__(self, kind: VmmKind, path: str, known: Listener | None = None) -> None:
        """Does not connect yet.

        Args:
            known: who must listen there; without it, whoever does at the first connection.
        """
        self.kind = kind
        self._api = APIS[kind]
        place = VmmSocket(path, known, kind)
        self.name = place.name
        self._http = HttpClient(place)
        self._pid = 0 if known is None else known.pid
        # What the dead watchdog before us asked for may have been carried out in part.
        self._half_stopped = known is not None and self._api.resumes_running
        self._carried = False
        self._proof = StoppedProof(kind.vmm, lambda: threads_of(self._pid))

    async def connect(self) -> Listener:
        """Connects, and asks for the state, which shows that it is this API."""
        listener = await self._http.connect()
        self._pid = listener.pid
        try:
            await self.status(CONNECT_S)
        except (Silent, Lost):
            await self._http.close()
            raise
        return listener

    async def close(self) -> str:
        """Hangs up; the VMM runs on."""
        return await self._http.close()

    async def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, fds: tuple[int, ...] = ()
    ) -> Any:
        """Asks for what `GET PATH` names; returns the JSON values of the answer."""
        method, _, target = command.partition(" ")
        if method != "GET" or not target.startswith("/") or arguments or fds:
            raise InternalError(f"{self.name}: only GET /PATH is asked, not {command[:40]}")
        request = Request(method, target)
        return self._values(request, self._accepted(request, await self._ask(request)))

    async def rest(self, seconds: float) -> None:
        """Waits so long, or until the request in progress was answered."""
        await self._http.rest(seconds)

    async def prepare(self) -> None:
        """Forgets the last pause."""
        self._proof.forget()
        self._half_stopped = self._carried = False

    async def status(self, seconds: float = 0.0) -> str:
        """The member `state`, or `NO_VM`."""
        request = self._api.state
        reply = await self._ask(request, seconds)
        if self.kind is CLOUD_HYPERVISOR and _has_no_vm(reply):
            return NO_VM
        values = self._values(request, self._accepted(request, reply))
        return Answer(self.name, str(request), values, self.kind.socket).member("state").text()

    def runs(self, status: str) -> bool:
        """Whether the guest runs."""
        return status == RUNNING

    def is_still(self, status: str) -> bool:
        """Whether the vCPUs are stopped, and will not run unless somebody continues them."""
        return status == PAUSED

    async def stop(self) -> bool:
        """Stops it; nothing tells whether somebody continued it before that."""
        self._half_stopped = self._api.resumes_running
        request = self._api.stop
        reply = await self._ask(request)
        try:
            self._accepted(request, reply)
        except Refused as error:
            if self._half_stopped:
                raise
            raise Untouched(str(error)) from error
        self._half_stopped = False
        return False

    async def cont(self) -> None:
        """Continues it; somebody else may be faster."""
        request = self._api.cont
        reply = await self._ask(request)
        try:
            self._accepted(request, reply)
        except Refused:
            if not self.runs(await self.status()):
                raise
        self._half_stopped = False

    async def step(self, status: str) -> Step:
        """What is to be done about a VM of ours that is in this status."""
        if status == PAUSED or (self._half_stopped and status == RUNNING):
            return "cont"
        self._carried = status == NO_VM
        return "leave"  # it runs, was shut down, or is gone

    def seen(self) -> Seen:
        """Nothing: neither API reports anything by itself."""
        return Seen()

    async def mark(self) -> None:
        """Takes down what the threads did until now."""
        await self._proof.mark()

    def doubt(self) -> str | None:
        """Why guest RAM may have changed since `mark`, although the VM is paused; or None."""
        return self._proof.doubt()

    def require_here(self) -> None:
        """Raises Carried where the VM that we held left its Cloud Hypervisor."""
        if self._carried:
            raise Carried(
                f"{self.name}: {self.kind.vmm} has no VM any more, which was stopped for the "
                f"scan; if it was migrated, continue it at its destination: {self.kind.by_hand}"
            )

    async def _ask(self, request: Request, seconds: float = 0.0) -> Reply:
        self._proof.asked()
        return await self._http.request(request, seconds)

    def _accepted(self, request: Request, reply: Reply) -> Reply:
        """The answer of a request that succeeded; raises Refused otherwise."""
        if 200 <= reply.status < 300:
            return reply
        raise Refused(
            f"{self.name}: {self.kind.vmm} refused {request}: {_cause(reply) or 'no reason given'} "
            f"(HTTP {reply.status})"
        )

    def _values(self, request: Request, reply: Reply) -> Any:
        try:
            return json.loads(reply.body)
        except (ValueError, RecursionError) as error:
            shown = printable(reply.body[:40].decode(errors="replace"), 60)
            raise PeerError(
                f"{self.name}: the answer to {request} is not JSON: {shown!r}; give the path of "
                f"{self.kind.socket}"
            ) from error


def _has_no_vm(reply: Reply) -> bool:
    """Whether Cloud Hypervisor says that it has none: by 404, older ones by 500 and a text."""
    text = _cause(reply).lower().replace(" ", "")
    return reply.status == 404 or (reply.status == 500 and "notcreated" in text)


def _cause(reply: Reply) -> str:
    """Why a request was refused: Firecracker's `fault_message`, Cloud Hypervisor's list of texts,
    or what else came, on one line."""
    text = reply.body[: 8 * _CAUSE_CHARS].decode(errors="replace")
    try:
        found = json.loads(reply.body[:_PARSED_BYTES])
    except (ValueError, RecursionError):
        found = text
    if isinstance(found, dict):
        found = found.get("fault_message", text)
    if isinstance(found, list):
        found = ": ".join(map(str, found))
    return printable(" ".join(str(found).split())[:_CAUSE_CHARS], _CAUSE_CHARS)
