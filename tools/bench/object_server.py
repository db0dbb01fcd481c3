"""One file, served as every object of an S3 server, as fast as the kernel sends it.

`python -m tools.bench.object_server FILE` prints its port and serves until its input ends.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from typing import Final

TAG: Final = '"0123456789abcdef0123456789abcdef"'
_RANGE: Final = re.compile(rb"^range: bytes=(\d+)-(\d+)\r$", re.IGNORECASE | re.MULTILINE)


def _head(connection: socket.socket) -> bytes:
    """A request without a body; empty at the end."""
    found = b""
    while b"\r\n\r\n" not in found:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return b""
        found += chunk
    return found


def _serve(connection: socket.socket, fd: int, size: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while head := _head(connection):
            asked = _RANGE.search(head)
            first, last = (int(asked[1]), int(asked[2])) if asked else (0, size - 1)
            status = "206 Partial Content" if asked else "200 OK"
            count = last + 1 - first
            lines = [
                f"HTTP/1.1 {status}",
                f"Content-Length: {count}",
                f"ETag: {TAG}",
                "Last-Modified: Mon, 05 Oct 2026 10:00:00 GMT",
                *([f"Content-Range: bytes {first}-{last}/{size}"] if asked else []),
            ]
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            if head.startswith(b"HEAD"):
                continue
            while count:
                count -= os.sendfile(connection.fileno(), fd, last + 1 - count, count)


def main(path: str) -> None:
    """Serves until the input ends."""
    fd = os.open(path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _address = listener.accept()
            threading.Thread(target=_serve, args=(connection, fd, size), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
