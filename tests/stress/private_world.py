"""A process whose private memory went through random system calls, with what is left of them."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable

import numpy as np

from tests.support import target as t
from tests.support.rams import PAGE
from tests.support.states.registry import PAGES
from tests.support.target import Area, Target

STEPS = 40
FILE_PAGES = 300


class PrivateWorld:
    """What each page holds, whatever may be done with it.

    Attributes:
        area: the memory; `area.may` is brought up to date by `settle`.
        done: the steps, for a failure's message.
    """

    def __init__(self, target: Target, seed: int, *, swaps: bool) -> None:
        """Takes the steps of this seed.

        Args:
            swaps: there is swap to be used.
        """
        self.area = Area(target, target.map(PAGES), PAGES)
        self.done: list[str] = []
        self._rng = random.Random(seed)
        self._normal = np.zeros(PAGES, bool)
        self._prot = np.full(PAGES, t.READ | t.WRITE, np.uint8)
        self._behind = np.zeros(PAGES, bool)  # of a private mapping of a file
        self._of_file = np.zeros(PAGES, bool)  # of these, the untouched ones
        self._guard = np.zeros(PAGES, bool)
        steps: list[Callable[[int, int], object]] = [
            *(self._data, self._zeros, self._one_byte, self._touch, self._discard, self._protect),
            *(self._unmap, self._map_anew, self._move, self._map_file, self._fork, self._advise),
            self._install_guards,
        ]
        for _ in range(STEPS):
            step = self._rng.choice(steps)
            first = self._rng.randrange(PAGES)
            count = min(PAGES - first, int(2 ** self._rng.uniform(0, 9.5)))
            self.done.append(f"{step.__name__} {first} {count}")
            step(first, count)
        if swaps:
            first = self._rng.randrange(PAGES)
            self._each_mapped(first, PAGES - first, t.PAGEOUT)
        target.do("rounds")  # its own stack, written again after a fork, before faults are counted
        self.settle()

    def settle(self) -> None:
        """Works out what may be said now of every page."""
        may = np.where(self._normal, t.NORMAL, t.ZERO).astype(np.uint8)
        may[self._of_file] |= t.UNDECIDED
        may[self.area.swapped()] = t.UNDECIDED
        may[(self._prot & t.READ == 0) | self._guard] = t.UNDECIDED
        self.area.may = may

    def _runs(self, first: int, count: int, wanted: int) -> list[tuple[int, int]]:
        """The runs of pages in which all of `wanted` is allowed and no guard is."""
        allowed = (self._prot[first : first + count] & wanted) == wanted
        allowed &= ~self._guard[first : first + count]
        edges = np.flatnonzero(np.diff(np.concatenate(([0], allowed.astype(np.int8), [0]))))
        return [(first + int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def _write(self, first: int, count: int, byte: int) -> None:
        for at, pages in self._runs(first, count, t.READ | t.WRITE):
            self.area.target.do("fill", self.area.at(at), pages * PAGE, byte)
            self._normal[at : at + pages] = byte != 0
            self._of_file[at : at + pages] = False

    def _data(self, first: int, count: int) -> None:
        self._write(first, count, 0x5A)

    def _zeros(self, first: int, count: int) -> None:
        self._write(first, count, 0)

    def _one_byte(self, first: int, count: int) -> None:
        for page in range(first, first + count, 7):
            if self._runs(page, 1, t.READ | t.WRITE):
                place = self._rng.choice([0, PAGE - 1, self._rng.randrange(PAGE)])
                self.area.byte(page, place, self._rng.randrange(1, 256))
                self._normal[page], self._of_file[page] = True, False

    def _touch(self, first: int, count: int) -> None:
        for at, pages in self._runs(first, count, t.READ):
            self.area.touch(at, pages)

    def _discard(self, first: int, count: int) -> None:
        """Of anonymous memory alone: a page of a file would be the file's again."""
        for at, pages in self._runs(first, count, t.READ | t.WRITE):
            if not self._is_file(at, pages):
                self.area.advise(at, pages, t.DONTNEED)
                self._normal[at : at + pages] = False

    def _is_file(self, first: int, count: int) -> bool:
        return bool(self._behind[first : first + count].any())

    def _protect(self, first: int, count: int) -> None:
        prot = self._rng.choice([0, t.READ, t.READ | t.WRITE])
        for at, pages in self._mapped(first, count):
            self.area.target.call("mprotect", self.area.at(at), pages * PAGE, prot)
            self._prot[at : at + pages] = prot

    def _mapped(self, first: int, count: int) -> list[tuple[int, int]]:
        """The runs that the process maps, by its maps."""
        begin, end = self.area.at(first), self.area.at(first + count)
        found = []
        with open(f"/proc/{self.area.target.pid}/maps") as maps:
            for line in maps:
                start, stop = (int(each, 16) for each in line.split()[0].split("-"))
                start, stop = max(start, begin), min(stop, end)
                if start < stop:
                    page = (start - self.area.base) // PAGE
                    found.append((page, (stop - start) // PAGE))
        return found

    def _anew(self, first: int, count: int, normal: bool | np.ndarray, *, of_file: bool) -> None:
        pages = slice(first, first + count)
        self._normal[pages] = normal
        self._of_file[pages] = self._behind[pages] = of_file
        self._prot[pages], self._guard[pages] = t.READ | t.WRITE, False

    def _unmap(self, first: int, count: int) -> None:
        self.area.target.call("munmap", self.area.at(first), count * PAGE)
        self._anew(first, count, False, of_file=False)
        self._prot[first : first + count] = 0

    def _map_anew(self, first: int, count: int) -> None:
        self.area.target.map(count, at=self.area.at(first))
        self._anew(first, count, False, of_file=False)

    def _move(self, first: int, count: int) -> None:
        """Pages from elsewhere come here by mremap."""
        target = self.area.target
        source = Area(target, target.map(count), count)
        source.data(0, (count + 1) // 2)
        flags = t.MAYMOVE | t.MREMAP_FIXED
        size = count * PAGE
        target.call("mremap", source.base, size, size, flags, self.area.at(first))
        self._anew(first, count, np.arange(count) < (count + 1) // 2, of_file=False)

    def _map_file(self, first: int, count: int) -> None:
        count = min(count, FILE_PAGES)
        normal = np.arange(FILE_PAGES) % 3 == 1
        with tempfile.NamedTemporaryFile(prefix="pctest-", dir="/dev/shm") as file:
            os.ftruncate(file.fileno(), FILE_PAGES * PAGE)
            for page in np.flatnonzero(normal).tolist():
                os.pwrite(file.fileno(), b"x", page * PAGE + 17)
            fd = self.area.target.open(file.name)
        skip = self._rng.randrange(FILE_PAGES - count + 1)
        at = self.area.at(first)
        self.area.target.map(count, flags=t.PRIVATE, fd=fd, offset=skip * PAGE, at=at)
        self.area.target.call("close", fd)
        self._anew(first, count, normal[skip : skip + count], of_file=True)

    def _fork(self, first: int, count: int) -> None:
        """A child that writes into its own copy of a part and stays."""
        for at, pages in self._runs(first, count, t.READ | t.WRITE)[:1]:
            self.area.target.do("fork", self.area.at(at), pages * PAGE, self._rng.choice([0, 7]))

    def _advise(self, first: int, count: int) -> None:
        choices = [t.HUGEPAGE, t.NOHUGEPAGE, t.DONTDUMP, t.COLLAPSE, t.MERGEABLE]
        self._each_mapped(first, count, self._rng.choice(choices))

    def _each_mapped(self, first: int, count: int, advice: int) -> None:
        for at, pages in self._mapped(first, count):
            try:
                self.area.advise(at, pages, advice)
            except OSError:
                continue  # not for this mapping, or not now

    def _install_guards(self, first: int, count: int) -> None:
        for at, pages in self._runs(first, min(count, 9), t.READ | t.WRITE):
            if self._is_file(at, pages):
                continue
            try:
                self.area.advise(at, pages, t.GUARD_INSTALL)
            except OSError:
                return
            self._guard[at : at + pages], self._normal[at : at + pages] = True, False
