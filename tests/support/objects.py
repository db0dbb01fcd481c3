"""RAM for objects of stores, and what numpy says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pagecheck.survey.stores.patience import Patience
from pagecheck.survey.values import Options, Piece, Target

if TYPE_CHECKING:
    from pagecheck.survey.stores import Objects
    from pagecheck.survey.values import Found

PAGE = 4096
# Short pauses; the limits are far, for machines on which all is slow.
QUICK = Patience(first_s=0.002, longest_s=0.01, quiet_s=90.0, absent_s=90.0, whole_s=90.0)
SHORT = QUICK._replace(quiet_s=0.05, absent_s=0.05)
SMALL = Options(in_flight=1 << 20)  # 8 slots of 128 KiB


def mixed_ram(pages: int, seed: int = 1) -> bytes:
    """Pages of zeros, of noise, and zeros but for one byte anywhere."""
    rng = np.random.default_rng(seed)
    ram = np.zeros((pages, PAGE), np.uint8)
    kinds = rng.integers(0, 3, pages)
    ram[kinds == 1] = rng.integers(1, 256, (int((kinds == 1).sum()), PAGE), np.uint8)
    ram[kinds == 2, rng.integers(0, PAGE, int((kinds == 2).sum()))] = 1
    return ram.tobytes()


def zero_pages(ram: bytes, page_size: int = PAGE) -> int:
    """How many pages are all zeros, by numpy."""
    return int((~np.frombuffer(ram, np.uint8).reshape(-1, page_size).any(axis=1)).sum())


def whole(target: object) -> Piece:
    """All of a target."""
    assert isinstance(target, Target), target
    return Piece(target, 0, target.size)


def require_counts(found: Found, ram: bytes) -> None:
    """Checks an answer against numpy."""
    zero, pages = zero_pages(ram), len(ram) // PAGE
    assert found.counts == (pages, zero, 0, pages - zero, 0, 0, 0)
    assert found.bytes_checked == len(ram)


def checked(objects: Objects, target: object, ram: bytes) -> Found:
    """The answer to all of a target, which is right."""
    found = objects.check(whole(target))
    require_counts(found, ram)
    return found
