"""Connecting to a VMM's socket in another user's name, so that the kernel itself decides whether
that user may. Only a program with one thread may do so: glibc changes the ids of all of them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pagecheck.errors import AccessError
from pagecheck.vmm.process.credentials import credentials_of


class User(NamedTuple):
    """Whose rights count; no capabilities.

    Attributes:
        groups: the supplementary ones.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]


def to_text(users: Sequence[User | None]) -> str:
    """Users as an argument of a program."""
    return json.dumps(users)


def from_text(text: str) -> tuple[User | None, ...]:
    """The same taken apart; of an empty text this process alone."""
    found = json.loads(text) if text else [None]
    return tuple(None if each is None else User(each[0], each[1], tuple(each[2])) for each in found)


@contextlib.contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Has files and sockets opened with a user's rights, as root; None: with our own.

    The real and saved ids stay, so that the user can neither signal this process nor ptrace it.

    Raises:
        OSError: this process may not.
        AccessError: its capabilities would count all the same, whoever the user is.
    """
    if user is None:
        yield
        return
    uid, gid, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(user.groups)
    try:
        os.setegid(user.gid)
        os.seteuid(user.uid)
        if credentials_of("self").effective:  # with SECBIT_NO_SETUID_FIXUP they stay
            raise AccessError(
                "pagecheck keeps its capabilities in another user's name; start it without the "
                "secure bit no-setuid-fixup"
            )
        yield
    finally:
        os.seteuid(uid)
        os.setegid(gid)
        os.setgroups(groups)
