"""Processes that are like VMMs which cannot be run here: their names, command lines, memory and
sockets."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

# Does what its first argument says, in Python, says that it is ready, and lives until its stdin
# ends. The arguments of the VMM follow.
_PROGRAM = """
import ctypes, mmap, os, socket, sys
def private(size, *flags):
    made = mmap.mmap(-1, size, sum([mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS, *flags]))
    made[:4096] = b"x" * 4096
    return made
def shared(name, size):
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return mmap.mmap(fd, size)
def listen(path):
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen()
    return made
def kvm_vm():
    import fcntl
    return fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE01, 0)
def not_dumpable():
    assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
kept = eval(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def stand_in(
    name: str, *arguments: str, does: str = "()", before: tuple[str, ...] = (), **options: Any
) -> Iterator[int]:
    """A process with the name and arguments of a VMM.

    Args:
        does: a Python expression of what it holds.
        before: a command that runs it, such as unshare.
    """
    # bash, because exec -a sets a name in the same process.
    named = ["bash", "-c", 'exec -a "$0" "$@"', name, sys.executable]
    command = [*before, *named, "-c", _PROGRAM, does, *arguments]
    # Python would look for its library beside a program of that name.
    options["env"] = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
