"""Processes of other users that do as they are told: clients of a service, and stand-ins for VMMs.

A puppet is a bare interpreter that reads one call a line and prints what it returned; what it is to
run has been loaded before it becomes somebody who may not read it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

USER_NAMESPACE: Final = 0x10000000  # CLONE_NEWUSER and so on. Source: linux/sched.h
PID_NAMESPACE: Final = 0x20000000
MOUNT_NAMESPACE: Final = 0x00020000

RAM_BYTES: Final = 16 << 20
RAM_NAME: Final = "memory-backend-memfd"

_PROGRAM: Final = """
import ctypes, json, mmap, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def become(uid, gid, groups=(), capabilities=False):
    if capabilities:
        assert libc.prctl(28, 4, 0, 0, 0) == 0  # SECBIT_NO_SETUID_FIXUP: they stay
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    dumpable(1)

def become_in_part(real, effective, saved):
    os.setresuid(real, effective, saved)

def dumpable(value):
    assert libc.prctl(4, value, 0, 0, 0) == 0

def drop(capability):
    '''From the effective and the permitted set.'''
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(head, data) == 0
    for index in (0, 1):
        data[3 * (capability // 32) + index] &= ~(1 << capability % 32)
    assert libc.capset(head, data) == 0

def unshare(flags):
    assert libc.unshare(flags) == 0, os.strerror(ctypes.get_errno())

def hide(folder):
    '''An empty file system over it, for this mount namespace only.'''
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    assert libc.mount(b"none", folder.encode(), b"tmpfs", 0, None) == 0

def change_root(folder, link):
    '''To an empty folder with one absolute link to a folder outside.'''
    os.makedirs(folder + os.path.dirname(link))
    os.symlink(link, folder + link)
    os.chroot(folder)

def into_a_child():
    '''A child takes over; this process only waits.'''
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)

def getpid():
    return os.getpid()

def share_ram(size, name):
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    for page in range(0, size // 4096, 2):
        os.pwrite(fd, b"x", page * 4096)
    kept.append(mmap.mmap(fd, size))
    os.close(fd)

def private_ram(size):
    ram = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size // 4096, 2):
        ram[page * 4096] = 1
    kept.append(ram)

def execute(*command):
    os.execvp(command[0], command)

def connect(path):
    global connected, lines
    connected = socket.socket(socket.AF_UNIX)
    connected.settimeout(30)
    connected.connect(path)
    lines = connected.makefile("rb")
    return json.loads(lines.readline())

def ask(request):
    connected.sendall(json.dumps(request).encode() + b"\\n")
    return json.loads(lines.readline())

def ask_by_child(request):
    if os.fork() == 0:
        connected.sendall(json.dumps(request).encode() + b"\\n")
        os._exit(0)
    os.wait()
    return json.loads(lines.readline())

def ask_by_another_program(request):
    '''This process executes a shell, which asks; a child reads the answer.'''
    if os.fork() == 0:
        print(json.dumps(json.loads(lines.readline())), flush=True)
        os._exit(0)
    fd = connected.fileno()
    os.set_inheritable(fd, True)
    script = f'printf "%s\\\\n" "$0" >&{fd}; read line'
    os.execv("/bin/sh", ["sh", "-c", script, json.dumps(request)])

def ask_by_a_namesake(request):
    '''This process ends; another one gets its number, and asks.'''
    number = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == number:
        pass
    for _ in range(500):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(number - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() == number:
                connected.sendall(json.dumps(request).encode() + b"\\n")
            os._exit(0)
        os.waitpid(child, 0)
        if child == number:
            return json.loads(lines.readline())
    return "no namesake"

for line in sys.stdin:
    name, *arguments = json.loads(line)
    print(json.dumps(globals()[name](*arguments)), flush=True)
"""


class Puppet:
    """A process that does as it is told.

    Attributes:
        pid: its process id.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def start(self, name: str, *arguments: Any) -> None:
        """Has it call one of its functions; the answer is not waited for."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What the last call that was started returned."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the puppet ended; its stderr says why"
        return json.loads(line)

    def call(self, name: str, *arguments: Any) -> Any:
        """Has it call one of its functions; gives what that returned."""
        self.start(name, *arguments)
        return self.answer()

    def wait(self) -> None:
        """Until it has ended by itself."""
        self._process.wait(30)

    def refusal(self, path: str, **arguments: Any) -> str:
        """Connects to a service and attaches; gives why that was refused."""
        self.call("connect", path)
        answer = self.call("ask", {"execute": "attach", "arguments": arguments})
        return refusal_in(answer)


def refusal_in(answer: dict[str, Any]) -> str:
    """The text of an answer that is an AccessError."""
    assert "error" in answer, answer
    assert answer["error"]["class"] == "AccessError", answer
    return str(answer["error"]["desc"])


@contextlib.contextmanager
def puppet(uid: int = 0, gid: int | None = None, groups: tuple[int, ...] = ()) -> Iterator[Puppet]:
    """A running puppet; one of another user is dumpable, as if that user had started it."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        one = Puppet(process)
        try:
            if uid:
                one.call("become", uid, uid if gid is None else gid, groups)
            yield one
        finally:
            process.kill()


@contextlib.contextmanager
def stand_in(uid: int = 0, **who: Any) -> Iterator[Puppet]:
    """A puppet that maps guest RAM shared: each second page has a byte."""
    with puppet(uid, **who) as one:
        one.call("share_ram", RAM_BYTES, RAM_NAME)
        yield one
