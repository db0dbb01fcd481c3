"""No entry of the extension leaves anything behind, called rightly or wrongly; none is missing."""

import contextlib
import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecheck.native import Feed, Portal, Walk, Worker, _native
from tests.support.leaks import leaks
from tests.unit import native_feed, native_functions, native_process, native_queues, native_walk
from tests.unit.native_entries import CASES, World, entries

PARTS = (
    native_functions,
    native_feed,
    native_process,
    native_queues,
    native_walk,
)  # which fill CASES
TYPES = (Feed, Portal, Walk, Worker)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_no_entry_is_missing() -> None:
    assert set(CASES) == {*entries(_native), "module"}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_no_entry_leaks(world: World, name: str) -> None:
    assert leaks(lambda: CASES[name](world), referenced=TYPES) == {}


# What the test above would see.

kept: list[Any] = []
release = threading.Event()


@pytest.fixture
def kept_is_released() -> Iterator[None]:
    release.clear()
    yield
    release.set()
    for each in kept:
        if isinstance(each, threading.Thread):
            each.join()
        elif isinstance(each, int):
            os.close(each)
    kept.clear()


def keep_thread() -> None:
    thread = threading.Thread(target=release.wait)
    thread.start()
    kept.append(thread)


LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p

LEAKING: dict[str, Callable[[], object]] = {
    "blocks of Python": lambda: kept.append([]),
    "bytes of C": lambda: LIBC.malloc(16),
    "descriptors": lambda: kept.append(os.dup(0)),
    "mappings": lambda: kept.append(mmap.mmap(-1, 4096, mmap.MAP_SHARED)),
    "bytes of address space": lambda: kept.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE)),
    "threads": keep_thread,
    "references": lambda: ctypes.pythonapi.Py_IncRef(ctypes.py_object(Feed)),
}


@pytest.mark.usefixtures("kept_is_released")
@pytest.mark.parametrize("what", LEAKING)
def test_every_kind_of_leak_is_seen(what: str) -> None:
    assert what in leaks(LEAKING[what], referenced=TYPES, rounds=3)


def test_what_is_given_back_is_no_leak() -> None:
    def call() -> None:
        with contextlib.closing(mmap.mmap(-1, 1 << 20)):
            os.close(os.dup(0))

    assert leaks(call, referenced=TYPES) == {}
