"""A FUSE file system with one file of zeros that stops answering, or whose reads fail or end early
from some place on: what a hostile client may pass on, and what a bad disk does.

It speaks the protocol of /dev/fuse itself, in a process and a mount namespace of its own, so that
no other program can stumble into it and nothing of it outlives that process: when /dev/fuse is
closed the kernel fails every request that still waits. Source: include/uapi/linux/fuse.h.
"""

import ctypes
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.needs import unavailable

OPCODES = {
    1: "LOOKUP",
    2: "FORGET",
    3: "GETATTR",
    14: "OPEN",
    15: "READ",
    17: "STATFS",
    18: "RELEASE",
    25: "FLUSH",
    26: "INIT",
    36: "INTERRUPT",
    42: "BATCH_FORGET",
    46: "LSEEK",
}
NEVER_ANSWERED = frozenset({"FORGET", "INTERRUPT", "BATCH_FORGET"})  # by the protocol
STALLED = frozenset({"READ", "LSEEK", "STATFS"})
ROOT, FILE = 1, 2
FOPEN_DIRECT_IO = 1
FILE_BYTES = 1 << 20
REQUEST_BYTES = 1 << 17
ENOENT, EIO, ENOSYS = 2, 5, 38
CLONE_NEWNS, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2, 4, 2
PR_SET_PDEATHSIG = 1


class StallingFs:
    """The running file system, seen from the test."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        self._process = process
        self._said = b""
        self._path = f"/proc/{process.pid}/root{folder}/ram"

    @property
    def pid(self) -> int:
        """Its program, in whose mount namespace it is."""
        return self._process.pid

    @property
    def path(self) -> str:
        """The file, as other processes may name it."""
        return self._path

    def open(self) -> int:
        """The file, open for reading."""
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def stall(self, *operations: str) -> None:
        """From now on these are not answered either."""
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(operations) + "\n").encode())
        self._process.stdin.flush()
        self.await_word("stalls")

    def await_word(self, word: str, seconds: float = 10.0) -> None:
        """Waits until it says that word: an operation that it did not answer."""
        until = time.monotonic() + seconds
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while word.encode() + b"\n" not in self._said:
            left = until - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                pytest.fail(f"the file system did not see {word}: {self._said!r}")
            got = os.read(fd, 4096)
            if not got:
                pytest.fail(f"the file system ended: {self._said!r}")
            self._said += got
        self._said = self._said.split(word.encode() + b"\n", 1)[1]

    def end(self) -> None:
        """Every request that waits fails now. May be called twice."""
        self._process.kill()
        self._process.wait(10)


@contextmanager
def stalling_fs(stalled: frozenset[str] = STALLED) -> Iterator[StallingFs]:
    """The file system, mounted; gone at the end whatever happens.

    Args:
        stalled: what it does not answer from the beginning; `error@N` and `short@N`: what it does
            with a read from byte N of the file on.

    Skips where it cannot be mounted; with PAGECHECK_REQUIRE_VM=1 that is a failure.
    """
    with tempfile.TemporaryDirectory(prefix="pctest-fuse-") as folder:
        process = subprocess.Popen(
            [sys.executable, __file__, folder, *stalled],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        fs = StallingFs(process, folder)
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            if process.stdout.readline() != b"mounted\n":
                unavailable(
                    "needs FUSE: " + process.stderr.read().decode().strip().splitlines()[-1]
                )
            yield fs
        finally:
            fs.end()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


def _mount(folder: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"{name}: {os.strerror(error)}")

    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    call("unshare", CLONE_NEWNS)
    call("mount", None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
    options = f"fd={fd},rootmode={stat.S_IFDIR:o},user_id={os.getuid()},group_id={os.getgid()}"
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV)
    call("mount", b"pctest", folder.encode(), b"fuse", flags, options.encode())
    return fd


def _attributes(node: int) -> bytes:
    """struct fuse_attr."""
    mode = stat.S_IFDIR | 0o755 if node == ROOT else stat.S_IFREG | 0o644
    size = 0 if node == ROOT else FILE_BYTES
    times = (0, 0, 0)
    owner = (os.getuid(), os.getgid())
    return struct.pack(
        "=6Q10I", node, size, size // 512, *times, *times, mode, 1, *owner, 0, 4096, 0
    )


def _read(body: bytes, faults: set[str]) -> tuple[int, bytes]:
    _handle, offset, size = struct.unpack_from("=2QI", body)
    end = min(offset + size, FILE_BYTES)
    for fault in faults:
        kind, _, place = fault.partition("@")
        if kind == "error" and end > int(place):
            return EIO, b""
        if kind == "short":
            end = min(end, int(place))
    return 0, bytes(max(0, end - offset))


def _answer(operation: str, node: int, body: bytes, faults: set[str]) -> tuple[int, bytes]:
    """(errno, payload)."""
    if operation == "INIT":
        major, _minor, read_ahead = struct.unpack_from("=3I", body)
        out = struct.pack("=4I2H2I2H", major, 31, read_ahead, 0, 16, 12, 4096, 1, 1, 0)
        return 0, out + bytes(64 - len(out))
    if operation == "LOOKUP":
        if body.rstrip(b"\0") != b"ram":
            return ENOENT, b""
        return 0, struct.pack("=4Q2I", FILE, 0, 0, 0, 0, 0) + _attributes(FILE)
    if operation == "GETATTR":
        return 0, struct.pack("=Q2I", 0, 0, 0) + _attributes(node)
    if operation == "OPEN":
        # Not through the page cache, where the kernel makes zeros of what a short read leaves out.
        is_short = any(each.startswith("short@") for each in faults)
        return 0, struct.pack("=Q2I", 1, FOPEN_DIRECT_IO if is_short else 0, 0)
    if operation == "STATFS":
        return 0, bytes(80)  # struct fuse_kstatfs
    if operation == "READ":
        return _read(body, faults)
    if operation in ("RELEASE", "FLUSH"):
        return 0, b""
    return ENOSYS, b""


def _one_request(fd: int, stalled: set[str]) -> None:
    request = os.read(fd, REQUEST_BYTES)
    _length, opcode, unique, node = struct.unpack_from("=2I2Q", request)
    operation = OPCODES.get(opcode, str(opcode))
    if operation in NEVER_ANSWERED:
        return
    if operation in stalled:
        print(operation, flush=True)
        return
    faults = {each for each in stalled if "@" in each}
    error, payload = _answer(operation, node, request[40:], faults)
    os.write(fd, struct.pack("=IiQ", 16 + len(payload), -error, unique) + payload)


def main(folder: str, *stalls: str) -> None:
    """Serves until it is killed, or until who started it is gone."""
    fd = _mount(folder)
    stalled = set(stalls)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(0, select.POLLIN)
    print("mounted", flush=True)
    try:
        while True:
            for ready, _events in poll.poll():
                if ready == fd:
                    _one_request(fd, stalled)
                    continue
                line = os.read(0, 4096).decode()
                if not line:
                    return
                stalled |= set(line.split())
                print("stalls", flush=True)
    finally:
        ctypes.CDLL(None).umount2(folder.encode(), MNT_DETACH)


if __name__ == "__main__":
    main(*sys.argv[1:])
