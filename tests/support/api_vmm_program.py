"""A process that stands in for Firecracker or Cloud Hypervisor: guest RAM, vCPU threads, an API.

It is as strict as their API documents and sources are: a wrong verb, path, body or state is refused
with the status and the text of the real one. Run as a program with a JSON object: `kind` ("fc" or
"ch"), `socket`, `mib`, `shared`, `state`, `vcpus`. It reads a line of JSON a command on stdin, and
answers each by a line on stdout.

Source: Firecracker's swagger file, src/firecracker/src/api_server and src/vmm/src/rpc_interface.rs;
Cloud Hypervisor's cloud-hypervisor.yaml, vmm/src/api/http and vmm/src/vm.rs.
"""

from __future__ import annotations

import json
import mmap
import os
import selectors
import socket
import struct
import sys
import threading
import time
from typing import Any

PAGE = 4096
CONNECTIONS_MAX = 10
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, as both VMMs have it
SHOWN = struct.Struct("16sQ")  # state, rounds of the vCPUs: what a test can see without waking us
NOT_STARTED = "The requested operation is not supported before starting the microVM."


def name_thread(name: str) -> None:
    with open(f"/proc/self/task/{threading.get_native_id()}/comm", "w") as comm:
        comm.write(name)


class Guest:
    """Guest RAM, and vCPUs that write its page 0 for as long as they may."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.size = given["mib"] << 20
        self.state, kind = given["state"], given["kind"]
        self.is_shared = given["shared"]
        if given["shared"]:
            fd = os.memfd_create({"fc": "guest_mem", "ch": "ch_ram"}[kind])
            os.ftruncate(fd, self.size)
            self.ram = mmap.mmap(fd, self.size)
            os.close(fd)
        else:
            self.ram = mmap.mmap(-1, self.size, flags=PRIVATE)
        for page in range(1, self.size // PAGE, 2):
            self.ram[page * PAGE + 7] = 1
        with open(given["shown"], "w+b") as file:
            file.truncate(PAGE)
            self._shown = mmap.mmap(file.fileno(), PAGE)
        self._rounds = 0
        self._show()
        self._change = threading.Condition()
        self._out = 0  # vCPUs that run
        for number in range(given["vcpus"]):
            name = {"fc": "fc_vcpu ", "ch": "vcpu"}[kind] + str(number)
            run = threading.Thread(target=self._run, args=(name, number), daemon=True)
            run.start()

    def _run(self, name: str, number: int) -> None:
        name_thread(name)
        while True:
            with self._change:
                self._change.wait_for(lambda: self.state == "Running")
                self._out += 1
            while self.state == "Running":
                self._rounds += 1
                self.ram[8 * number : 8 * number + 8] = self._rounds.to_bytes(8, "little")
                self._show()
                time.sleep(0.0005)
            with self._change:
                self._out -= 1
                self._change.notify_all()

    def _show(self) -> None:
        SHOWN.pack_into(self._shown, 0, self.state.encode(), self._rounds)

    def become(self, state: str) -> None:
        """Returns when every vCPU is in the state, as both VMMs do."""
        with self._change:
            self.state = state
            self._show()
            self._change.notify_all()
            self._change.wait_for(lambda: state == "Running" or self._out == 0)


class Refuse(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Firecracker:
    """Its API, of which what matters here."""

    server = "Firecracker API"

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def error(self, text: str) -> bytes:
        return json.dumps({"fault_message": text}).encode()

    def answer(self, method: str, target: str, body: bytes) -> Any:
        """The JSON values of a 200, or None for a 204."""
        mib = self.guest.size >> 20
        match method, target:
            case ("GET", _) if body:
                raise Refuse(400, "GET request cannot have a body.")
            case ("GET", "/"):
                return {
                    "id": "anonymous-instance",
                    "state": self.guest.state,
                    "vmm_version": "1.12.0",
                    "app_name": "Firecracker",
                }
            case ("GET", "/machine-config"):
                return {"vcpu_count": 2, "mem_size_mib": mib, "smt": False, "huge_pages": "None"}
            case ("GET", "/vm/config"):
                return {"machine-config": {"vcpu_count": 2, "mem_size_mib": mib}, "drives": []}
            case (("PUT" | "PATCH"), _) if not body:
                raise Refuse(400, f"Empty {method} request.")
            case ("PATCH", "/vm"):
                return self._change(body)
        path = target.strip("/").split("/")[0]
        raise Refuse(400, f"Invalid request method and/or path: {method} {path}.")

    def _change(self, body: bytes) -> None:
        wrong = "An error occurred when deserializing the json body of a request: "
        try:
            given = json.loads(body)
        except ValueError as error:
            raise Refuse(400, f"{wrong}{error}.") from error
        if not isinstance(given, dict) or set(given) != {"state"}:
            raise Refuse(400, f"{wrong}missing field `state`.")
        state = {"Paused": "Paused", "Resumed": "Running"}.get(given["state"])
        if state is None:
            raise Refuse(400, f"{wrong}unknown variant `{given['state']}`.")
        if self.guest.state == "Not started":
            raise Refuse(400, NOT_STARTED)
        self.guest.become(state)  # of one that is in it already, too


class CloudHypervisor:
    """Its API, of which what matters here."""

    server = "Cloud Hypervisor API"

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def error(self, text: str) -> bytes:
        return json.dumps(text.split(": ")).encode() if text else b""

    def answer(self, method: str, target: str, body: bytes) -> Any:
        """The JSON values of a 200, or None for a 204."""
        name = target.removeprefix("/api/v1/")
        wanted = {"vm.info": "GET", "vm.pause": "PUT", "vm.resume": "PUT", "vmm.ping": "GET"}
        if not target.startswith("/api/v1/") or name not in wanted:
            raise Refuse(404, "Not Found")
        if method != wanted[name] or body:
            raise Refuse(400, "Bad Request" if method in ("GET", "PUT") else "")
        if name == "vmm.ping":
            return {"build_version": "v45.0", "version": "45.0.0", "pid": os.getpid()}
        if self.guest.state == "none":
            raise Refuse(404, "Error from API: The VM info is not available: VM is not created")
        if name == "vm.info":
            memory = {
                "size": self.guest.size,
                "shared": self.guest.is_shared,
                "hotplugged_size": None,
            }
            config = {"cpus": {"boot_vcpus": 2}, "memory": {**memory, "zones": None}}
            info = {"config": config, "state": self.guest.state}
            return {**info, "memory_actual_size": self.guest.size, "device_tree": {}}
        old, new = self.guest.state, {"vm.pause": "Paused", "vm.resume": "Running"}[name]
        if (old, new) not in {("Running", "Paused"), ("Paused", "Running")}:
            raise Refuse(500, f"Error from API: Invalid VM state transition from {old} to {new}")
        self.guest.become(new)
        return None


class Client:
    """One connection, and what came on it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = b""

    def request(self) -> tuple[str, str, bytes] | None:
        """The next whole request; raises Refuse for one that is none."""
        head, end, rest = self.received.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
        fields = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines)}
        length = int(fields.get("content-length", "0"))
        if len(rest) < length:
            return None
        self.received = rest[length:]
        if method not in ("GET", "PUT", "PATCH") or version not in ("HTTP/1.0", "HTTP/1.1"):
            raise Refuse(400, "Invalid HTTP request")
        return method, target, rest[:length]


class Server:
    """Serves the API in one thread, one request after the other, as both VMMs do.

    Attributes:
        log: the requests that came.
        faults: request → what goes wrong with it; `*` is any.
    """

    def __init__(self, path: str, api: Any) -> None:
        self.api = api
        self.log: list[str] = []
        self.faults: dict[str, str] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(64)
        self._ready = selectors.DefaultSelector()
        self._ready.register(self.listener, selectors.EVENT_READ, None)
        self._silent: list[socket.socket] = []

    def serve(self) -> None:
        name_thread("fc_api" if isinstance(self.api, Firecracker) else "http-server")
        while True:
            for key, _ in self._ready.select():
                if key.data is None:
                    connection, _ = self.listener.accept()
                    if len(self._ready.get_map()) > CONNECTIONS_MAX:
                        connection.sendall(b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n")
                        connection.close()
                    else:
                        client = Client(connection)
                        self._ready.register(connection, selectors.EVENT_READ, client)
                else:
                    self._receive(key.data)

    def _receive(self, client: Client) -> None:
        try:
            part = client.connection.recv(65536)
        except ConnectionError:
            part = b""
        client.received += part
        try:
            while part and (request := client.request()) is not None:
                if not self._carry_out(client, *request):
                    part = b""
        except (Refuse, ValueError, UnicodeDecodeError):
            self._send(client, self._answer(400, self.api.error("Invalid HTTP request")))
        except ConnectionError:
            part = b""
        if not part:
            self._ready.unregister(client.connection)
            if client.connection not in self._silent:
                client.connection.close()

    def _carry_out(self, client: Client, method: str, target: str, body: bytes) -> bool:
        """Answers; False: nothing more is read from this client."""
        said = f"{method} {target}"
        self.log.append(said)
        fault = self.faults.get(said, self.faults.get("*", ""))
        if fault.endswith(" once"):
            fault = fault.removesuffix(" once")
            self.faults.pop(said, None)
        before, _, fault = fault.rpartition("then ")
        if fault and not before:  # in place of what was asked
            return self._fail(client, fault, self._answer(200, b"{}"))
        try:
            values = self.api.answer(method, target, body)
            body = b"" if values is None else json.dumps(values).encode()
            answer = self._answer(204 if values is None else 200, body)
        except Refuse as error:
            answer = self._answer(error.status, self.api.error(str(error)))
        if fault:
            return self._fail(client, fault, answer)
        self._send(client, answer)
        return True

    def _answer(self, status: int, body: bytes) -> bytes:
        head = f"HTTP/1.1 {status} \r\nServer: {self.api.server}\r\nConnection: keep-alive\r\n"
        if status != 204:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body

    def _send(self, client: Client, answer: bytes) -> None:
        client.connection.sendall(answer)

    def _fail(self, client: Client, fault: str, answer: bytes) -> bool:
        fault, _, what = fault.partition(" ")
        _, _, body = answer.partition(b"\r\n\r\n")
        first = b"HTTP/1.1 200 OK\r\n"
        match fault:
            case "die":
                os._exit(9)
            case "silent":
                self._silent.append(client.connection)
                return False
            case "hangup":
                return False
            case "garbage":
                self._send(client, b"\x00\xff\x1b[31mSSH-2.0-x\r\n\r\n")
            case "half":
                self._send(client, answer[: len(answer) // 2])
                return False
            case "stuck":
                self._send(client, answer[: len(answer) // 2])
                self._silent.append(client.connection)
            case "drip":
                self._drip(client, first + b"X-Drip: " + b"x" * 20000)
            case "endless":
                self._drip(client, first + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n", 4096)
            case "headers":
                self._drip(client, first, b"X-Y: ", 4096)
            case "large":
                self._send(client, first + b"Content-Length: 1099511627776\r\n\r\n{")
                self._silent.append(client.connection)
            case "interim":
                self._drip(client, b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0)
            case "chunked":
                chunks = b"".join(b"%x\r\n%c\r\n" % (1, byte) for byte in body) + b"0\r\n\r\n"
                self._send(client, first + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
            case "unframed":  # its end is that of the connection
                self._send(client, first + b"Connection: close\r\n\r\n" + body)
                return False
            case "last":
                self._send(client, answer.replace(b"keep-alive", b"close"))
                return False
            case "idle":
                self._send(client, answer)
                return False
            case "body":
                self._send(client, self._answer(200, what.encode()))
            case "status":
                number, _, text = what.partition(" ")
                self._send(client, self._answer(int(number), text.encode()))
            case _:
                raise AssertionError(fault)
        return True

    def _drip(self, client: Client, head: bytes, part: bytes = b"", size: int = 0) -> None:
        """Sends for ever, in a thread of its own: slowly, or as fast as it is read."""

        def run() -> None:
            try:
                if not part:
                    for byte in head:
                        client.connection.sendall(bytes([byte]))
                        time.sleep(0.02)
                    return
                client.connection.sendall(head)
                while True:
                    client.connection.sendall(part + b"x" * size + (b"\r\n" if size else b""))
            except OSError:
                pass

        threading.Thread(target=run, daemon=True).start()


def main() -> None:
    """Serves until stdin ends."""
    given = json.loads(sys.argv[1])
    guest = Guest(given)
    api = {"fc": Firecracker, "ch": CloudHypervisor}[given["kind"]](guest)
    server = Server(given["socket"], api)
    threading.Thread(target=server.serve, daemon=True).start()
    print("ready", flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case {"faults": faults}:
                server.faults = faults
                answer: Any = None
            case {"become": state}:
                answer = guest.become(state)
            case {"write": page}:
                guest.ram[page * PAGE] = 1
                answer = None
            case _:
                answer = server.log
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
