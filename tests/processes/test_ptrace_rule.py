"""What pagecheck computes of the kernel's ptrace access rule, against the kernel's own answers."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.vmm.process.access import may_inspect, may_read
from pagecheck.vmm.process.credentials import credentials_of
from tests.support.users import NOBODY, needs_root

pytestmark = needs_root

ALL, PTRACE, NET_ADMIN = (1 << 64) - 1, 1 << 19, 1 << 12
CLONE_NEWUSER = 0x10000000
RANDOM = 20
LIBC = ctypes.CDLL(None, use_errno=True)


def require(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def capabilities(permitted: int, effective: int = ALL) -> None:
    """Keeps these alone."""
    effective &= permitted
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h: version 3
    words = [each >> shift & 0xFFFFFFFF for shift in (0, 32) for each in (effective, permitted, 0)]
    require(LIBC.capset(header, (ctypes.c_uint32 * 6)(*words)))


def become(uid: int, gid: int, kept: int = 0) -> Callable[[], None]:
    def work() -> None:
        require(LIBC.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        capabilities(kept)
        require(LIBC.prctl(4, 1, 0, 0, 0))  # PR_SET_DUMPABLE

    return work


def own_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    require(LIBC.unshare(CLONE_NEWUSER))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    require(LIBC.prctl(4, 1, 0, 0, 0))


def not_dumpable() -> None:
    require(LIBC.prctl(4, 0, 0, 0, 0))


def effective_uid_only() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(0, NOBODY, NOBODY)
    require(LIBC.prctl(4, 1, 0, 0, 0))


nobody = become(NOBODY, NOBODY)
# Each way in which a process is somebody, as steps from root on.
WAYS: dict[str, tuple[Callable[[], None], ...]] = {
    "root": (),
    "root without capabilities": (lambda: capabilities(0),),
    "root with ptrace alone": (lambda: capabilities(PTRACE),),
    "nobody": (nobody,),
    "nobody of another group": (become(NOBODY, 1234),),
    "nobody with another real uid": (effective_uid_only,),
    "nobody with net_admin": (become(NOBODY, NOBODY, NET_ADMIN),),
    "nobody with ptrace": (become(NOBODY, NOBODY, PTRACE),),
    "in a namespace of root's": (own_namespace,),
    "in a namespace of nobody's": (nobody, own_namespace),
    "in two namespaces of nobody's": (nobody, own_namespace, own_namespace),
    "root, not dumpable": (not_dumpable,),
    "nobody, not dumpable": (nobody, not_dumpable),
    "in a namespace of nobody's, not dumpable": (nobody, own_namespace, not_dumpable),
}


def random_steps(chance: random.Random) -> tuple[Callable[[], None], ...]:
    """Any ids, capabilities, namespaces and dumpability that root can give to a process."""

    def four() -> list[int]:
        pool = [1000, NOBODY]
        return [chance.choice(pool)] * 4 if chance.random() < 0.5 else chance.choices(pool, k=4)

    uids, gids = four(), four()
    permitted = chance.choice([0, PTRACE, NET_ADMIN, PTRACE | NET_ADMIN])
    effective = permitted & chance.choice([ALL, 0])

    def change_ids() -> None:
        require(LIBC.prctl(8, 1, 0, 0, 0))  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(*gids[:3])
        LIBC.setfsgid(gids[3])
        os.setresuid(*uids[:3])
        capabilities(permitted | 1 << 7)  # CAP_SETUID
        LIBC.setfsuid(uids[3])
        capabilities(permitted, effective)
        require(LIBC.prctl(4, 1, 0, 0, 0))  # or its files in /proc are not its own

    is_dumpable = chance.random() < 0.8
    last = (lambda: require(LIBC.prctl(4, 1, 0, 0, 0))) if is_dumpable else not_dumpable
    # A namespace's only id is its maker's effective one, so that those come first.
    namespaces = [own_namespace] * chance.choice([0, 0, 0, 1, 2])
    return change_ids, *namespaces, last


class Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def reads(pid: int) -> bool:
    """Whether the kernel lets this process read the other, by an address where nothing is."""
    ours = ctypes.create_string_buffer(1)
    local, remote = Piece(ctypes.addressof(ours), 1), Piece(None, 1)
    assert LIBC.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == -1
    assert ctypes.get_errno() in (errno.EFAULT, errno.EPERM)
    return ctypes.get_errno() == errno.EFAULT


def inspects(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/maps").read_text())
    except PermissionError:
        return False


class Somebody:
    """A process that is asked which others it may inspect and read."""

    def __init__(self, steps: tuple[Callable[[], None], ...]) -> None:
        question, self._to = os.pipe()
        self._from, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(steps, question, answer)
        os.close(question)
        os.close(answer)
        self.is_there = os.read(self._from, 5) == b"ready"

    def _live(self, steps: tuple[Callable[[], None], ...], question: int, answer: int) -> None:
        try:
            os.close(self._to)
            for step in steps:
                step()
            os.write(answer, b"ready")
            while number := os.read(question, 20):
                pid = int(number)
                refusals = [each and tuple(each) for each in (may_inspect(pid), may_read(pid))]
                os.write(answer, json.dumps([inspects(pid), reads(pid), *refusals]).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)

    def ask(self, pid: int) -> Any:
        """What the kernel permits: to inspect, to read; and then what pagecheck says on both."""
        os.write(self._to, b"%d" % pid)
        return json.loads(os.read(self._from, 4096))

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        os.waitpid(self.pid, 0)


@contextlib.contextmanager
def somebody(way: str) -> Iterator[Somebody]:
    with contextlib.closing(Somebody(WAYS[way])) as made:
        assert made.is_there
        yield made


@pytest.fixture(scope="module")
def everybody() -> Iterator[dict[str, Somebody]]:
    with contextlib.ExitStack() as stack:
        yield {way: stack.enter_context(somebody(way)) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_the_rule_is_the_kernels(everybody: dict[str, Somebody], way: str) -> None:
    asker = everybody[way]
    who = credentials_of(asker.pid)
    wrong = []
    for name, target in everybody.items():
        if target is asker:
            continue
        kernel = asker.ask(target.pid)[:2]
        for permitted, ours in zip(
            kernel, (may_inspect(target.pid, who), may_read(target.pid, who)), strict=True
        ):
            # /proc does not show whether a process of a namespace is dumpable: it is refused.
            cautious = name.startswith("in ") and "may be not dumpable" in str(ours)
            if (ours is None) != permitted and not (permitted and cautious):
                wrong.append(f"{name}: {permitted}, but {ours}")
    assert wrong == []


@pytest.mark.parametrize("way", WAYS)
def test_what_the_kernel_refuses_us_has_a_reason(everybody: dict[str, Somebody], way: str) -> None:
    asker = everybody[way]
    wrong = []
    for name, target in everybody.items():
        if target is asker:
            continue
        inspects, reads, *refusals = asker.ask(target.pid)
        for permitted, refusal in zip((inspects, reads), refusals, strict=True):
            why, way_out = refusal or ("", "")
            expected = permitted == (refusal is None) or (permitted and "page map" in why)
            if not expected or "does not show why" in why or bool(why) != bool(way_out):
                wrong.append(f"{name}: {permitted}, but {refusal}")
    assert wrong == []


def test_random_processes_are_never_permitted_more_than_by_the_kernel(
    pytestconfig: pytest.Config,
) -> None:
    chance = random.Random(pytestconfig.getoption("--seed"))
    with contextlib.ExitStack() as stack:
        everybody = [random_steps(chance) for _ in range(RANDOM)]
        made = [Somebody(steps) for steps in (WAYS["root"], *everybody)]
        for each in made:
            stack.callback(each.close)
        there = [each for each in made if each.is_there]  # not all ids can make a namespace
        assert len(there) > RANDOM // 2
        wrong, permitted = [], 0
        for asker in there:
            who = credentials_of(asker.pid)
            for target in there:
                if target is not asker:
                    ours = may_inspect(target.pid, who), may_read(target.pid, who)
                    kernel = asker.ask(target.pid)[:2]
                    permitted += sum(each is None for each in ours)
                    if any(o is None and not k for o, k in zip(ours, kernel, strict=True)):
                        wrong.append((who, credentials_of(target.pid)))
        assert wrong == []
        assert permitted > 0
