"""Memory with a userfaultfd that nobody serves: what is absent may not have arrived."""

from __future__ import annotations

import contextlib
import errno
import os
import struct

import pytest

from tests.support import target as t
from tests.support.rams import PAGE
from tests.support.states.registry import PAGES, anonymous, state
from tests.support.target import Area, Target

UFFD_MISSING, UFFD_WP, UFFD_MINOR = 1, 2, 4


def userfault(area: Area, mode: int, features: int = 0) -> int:
    """Registers it with a userfaultfd that nobody serves; its descriptor there."""
    target = area.target
    try:
        fd = target.call("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK)
        _userfault_ioctl(area, fd, 0xC018AA3F, struct.pack("QQQ", 0xAA, features, 0))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
            raise
        pytest.skip(f"no userfaultfd with these features here: {error.strerror}")
    size = area.pages * PAGE
    _userfault_ioctl(area, fd, 0xC020AA00, struct.pack("QQQQ", area.base, size, mode, 0))
    return fd


def _userfault_ioctl(area: Area, fd: int, request: int, content: bytes) -> None:
    area.target.call("ioctl", fd, request, area.target.put(content))


@state
def userfault_missing(target: Target, _stack: contextlib.ExitStack) -> Area:
    """What has not arrived is undecided; what has is told, zero pages that were placed too."""
    area = anonymous(target)
    area.mix(pages=range(300))
    absent = ~area.present()
    fd = userfault(area, UFFD_MISSING)
    _userfault_ioctl(area, fd, 0xC020AA04, struct.pack("QQQQ", area.at(700), 8 * PAGE, 0, 0))
    absent[700:708] = False
    area.may[absent] = t.UNDECIDED
    return area


def write_protected(target: Target, pages: int, features: int = 0) -> Area:
    """The first `pages` of memory, of which 300 are present."""
    area = anonymous(target)
    area.mix(pages=range(300))
    fd = userfault(area, UFFD_WP, features)
    protect = struct.pack("QQQ", area.at(0), pages * PAGE, 1)
    _userfault_ioctl(area, fd, 0xC018AA06, protect)
    area.may[~area.present()] = t.UNDECIDED
    return area


@state
def userfault_write_protected(target: Target, _stack: contextlib.ExitStack) -> Area:
    return write_protected(target, 200)


@state
def userfault_protected_before_use(target: Target, _stack: contextlib.ExitStack) -> Area:
    """Marks where no page is."""
    return write_protected(target, 1000, 1 << 13)  # UFFD_FEATURE_WP_UNPOPULATED


@state
def userfault_poisoned(target: Target, _stack: contextlib.ExitStack) -> Area:
    area = anonymous(target)
    area.mix(pages=range(300))
    fd = userfault(area, UFFD_MISSING, 1 << 14)  # UFFD_FEATURE_POISON
    poison = struct.pack("QQQQ", area.at(500), 9 * PAGE, 0, 0)
    _userfault_ioctl(area, fd, 0xC020AA08, poison)
    area.may[~area.present()] = t.UNDECIDED
    return area


@state
def userfault_minor(target: Target, stack: contextlib.ExitStack) -> Area:
    """Shared memory whose pages are there and not yet mapped."""
    fd = target.memfd(PAGES * PAGE)
    other = Area(target, target.map(PAGES, flags=t.SHARED, fd=fd), PAGES)
    other.data(0, 200)
    area = Area(target, target.map(PAGES, flags=t.SHARED, fd=fd), PAGES)
    userfault(area, UFFD_MINOR, 1 << 10)  # UFFD_FEATURE_MINOR_SHMEM
    area.may[:] = t.UNDECIDED
    return area
