"""The policy file: whose VMs a client may look at, or stop, beyond what the kernel lets it.

Read once, at the start. Danger: it gives rights away. Decision: it must be a file that nobody but
root and the service's user can have written, and anything in it that is not understood is an
error.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tomllib
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

from pagecheck.errors import UsageError

BYTES_MAX: Final = 1 << 20
ID_MAX: Final = (1 << 32) - 2  # the highest one means "none"
_MEMBERS: Final = ("users", "groups", "vms_of", "pause", "save")

What = Literal["look", "pause", "save"]


class Rule(NamedTuple):
    """One table `[[allow]]`.

    Attributes:
        users: uids of clients.
        groups: gids; every member is meant.
        vms_of: uids whose VMs those clients may look at.
        pause: whether they may stop them, too.
        save: whether they may save them, too, for which they are stopped.
    """

    users: frozenset[int]
    groups: frozenset[int]
    vms_of: tuple[int, ...]
    pause: bool
    save: bool = False

    def allows(self, what: What) -> bool:
        """Whether it is about more than looking."""
        return what == "look" or self.save or (what == "pause" and self.pause)

    def is_for(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether a client with these ids is meant."""
        return uid in self.users or not self.groups.isdisjoint(gids)


class Policy(NamedTuple):
    """All rules of a file; one that allows it is enough."""

    rules: tuple[Rule, ...] = ()

    def names(self, uid: int, gids: Iterable[int]) -> bool:
        """Whether any rule is for such a client."""
        gids = frozenset(gids)
        return any(rule.is_for(uid, gids) for rule in self.rules)

    def owners(self, uid: int, gids: Iterable[int], what: What = "look") -> tuple[int, ...]:
        """The users whose VMs such a client may look at, or stop, or save."""
        gids = frozenset(gids)
        found = [
            owner
            for rule in self.rules
            if rule.is_for(uid, gids) and rule.allows(what)
            for owner in rule.vms_of
        ]
        return tuple(dict.fromkeys(found))


NO_POLICY: Final = Policy()


def load_policy(path: str) -> Policy:
    """Reads a policy file.

    Raises:
        UsageError: it cannot be read, others can write it, or it is not understood.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            _require_ours(path, os.fstat(fd))
            text = file.read(BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"policy {path}: cannot be read: {reason}") from error
    if len(text) > BYTES_MAX:
        raise UsageError(f"policy {path}: has more than {BYTES_MAX} bytes")
    try:
        found = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(f"policy {path}: is not TOML: {why}") from error
    return _parsed(path, found)


def _require_ours(path: str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"policy {path}: is not a regular file")
    if found.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"policy {path}: belongs to user {found.st_uid}; chown it to root, or to the service's "
            "user"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"policy {path}: others than its owner may write it; chmod go-w it")


def _parsed(path: str, found: dict[str, Any]) -> Policy:
    tables = found.pop("allow", None)
    if found:
        raise UsageError(f"policy {path}: unknown: {_shown(found)}; it has tables [[allow]] only")
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"policy {path}: allows nothing; write tables [[allow]]")
    rules = (_rule(f"policy {path}: [[allow]] {n}", each) for n, each in enumerate(tables, 1))
    return Policy(tuple(rules))


def _rule(where: str, table: Any) -> Rule:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: is not a table; write [[allow]]")
    if unknown := table.keys() - set(_MEMBERS):
        raise UsageError(f"{where}: unknown: {_shown(unknown)}; it has {', '.join(_MEMBERS)}")
    users = _ids(where, table, "users", _uid)
    groups = _ids(where, table, "groups", _gid)
    vms_of = _ids(where, table, "vms_of", _uid)
    if not users and not groups:
        raise UsageError(f"{where}: is for nobody; give users or groups")
    if not vms_of:
        raise UsageError(f"{where}: allows nothing; give vms_of, users whose VMs are meant")
    flags = [table.get(name, False) for name in ("pause", "save")]
    for name, flag in zip(("pause", "save"), flags, strict=True):
        if type(flag) is not bool:
            raise UsageError(f"{where}: {name}: must be true or false, without quotes")
    return Rule(frozenset(users), frozenset(groups), vms_of, *flags)


def _ids(
    where: str, table: dict[str, Any], name: str, known: Callable[[str], int]
) -> tuple[int, ...]:
    given = table.get(name, [])
    if not isinstance(given, list):
        raise UsageError(f"{where}: {name}: must be a list of names or numbers")
    found: list[int] = []
    for each in given:
        if isinstance(each, str):
            try:
                found.append(known(each))
            except (KeyError, ValueError) as error:
                raise UsageError(f"{where}: {name}: there is no {each[:80]!r} here") from error
        elif type(each) is int and 0 <= each <= ID_MAX:
            found.append(each)
        else:
            raise UsageError(f"{where}: {name}: {str(each)[:80]!r} is neither a name nor a number")
    return tuple(dict.fromkeys(found))


def _uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def _gid(name: str) -> int:
    return grp.getgrnam(name).gr_gid


def _shown(names: Iterable[str]) -> str:
    return ", ".join(repr(name[:80]) for name in sorted(names)[:5])
