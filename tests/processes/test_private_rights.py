"""Memory that this user may not read: one clear line each, and nothing of it is told."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pagecheck
from pagecheck.errors import SourceError
from tests.support.kernel_settings import set_to
from tests.support.looking import opened
from tests.support.states import anonymous
from tests.support.target import Area, Target
from tests.support.users import NOBODY, in_a_child, needs_root

PR_SET_DUMPABLE: Final = 4
CLONE_NEWUSER: Final = 0x10000000
SCOPE: Final = Path("/proc/sys/kernel/yama/ptrace_scope")


@pytest.fixture
def target() -> Iterator[Target]:
    """Somebody else's."""
    with Target(*as_user(NOBODY)) as running:
        yield running


def as_user(uid: int) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")


def refused(area: Area, *words: str) -> None:
    """It may not be read by who runs this; the way over its process id and the block itself say
    why, in one line."""
    for look in (lambda: opened(area), lambda: pagecheck.scan(f"pid:{area.target.pid}")):
        with pytest.raises(SourceError) as caught:
            look()
        line = str(caught.value)
        assert "\n" not in line
        assert str(area.target.pid) in line
        for word in words:
            assert word in line, line


@needs_root
def test_another_users(target: Target) -> None:
    area = anonymous(target)
    area.data(5)
    opened(area).close()  # root may
    in_a_child(lambda: opened(area).close())  # and so may its own user
    with Target(*as_user(NOBODY - 1)) as other:
        of_other = anonymous(other)
        in_a_child(lambda: refused(of_other, "uid"))
    with Target() as of_root:
        roots = anonymous(of_root)
        in_a_child(lambda: refused(roots, "uid"))


@needs_root
def test_not_dumpable(target: Target) -> None:
    area = anonymous(target)
    target.call("prctl", PR_SET_DUMPABLE, 0)
    in_a_child(lambda: refused(area, "dumpable"))
    opened(area).close()  # root may


@needs_root
def test_in_another_user_namespace(target: Target) -> None:
    """Who made the namespace may read what is in it; who is in one may not read what is outside."""
    outside = anonymous(target)
    with Target(*as_user(NOBODY)) as inside:
        try:
            inside.call("unshare", CLONE_NEWUSER)
        except OSError as error:
            pytest.skip(f"no user namespaces for users: {error.strerror}")
        area = anonymous(inside)
        in_a_child(lambda: opened(area).close())

    def from_inside() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_NEWUSER) == 0
        refused(outside)

    in_a_child(from_inside)


@needs_root
@pytest.mark.parametrize("scope", [1, 2])  # 3 cannot be taken back before a restart
def test_yama(scope: int, target: Target) -> None:
    if not SCOPE.exists():
        pytest.skip("no yama in this kernel")
    area = anonymous(target)
    with set_to(SCOPE, scope):
        in_a_child(lambda: refused(area, "ptrace_scope"))


def test_who_is_not_there() -> None:
    with Target() as target:
        pid = target.pid
    with pytest.raises(SourceError, match=f"process {pid}: no such process"):
        pagecheck.scan(f"pid:{pid}")
