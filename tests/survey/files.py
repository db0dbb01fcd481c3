"""Memory files for surveys, and what numpy says of them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np

PAGE = 4096


def memory(path: Path, kinds: str) -> Path:
    """A file of one page for each letter: `h` a hole, `z` written zeros, `n` a byte among zeros."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = random.Random(kinds)
    with open(path, "wb") as file:
        for number, kind in enumerate(kinds):
            if kind == "h":
                continue
            page = bytearray(PAGE)
            if kind == "n":
                page[place.randrange(PAGE)] = 7
            os.pwrite(file.fileno(), page, number * PAGE)
        os.ftruncate(file.fileno(), len(kinds) * PAGE)
    return path


def zero_pages(path: Path) -> int:
    """How many pages of a file are zero."""
    pages = np.fromfile(path, dtype=np.uint8).reshape(-1, PAGE)
    return int((~pages.any(axis=1)).sum())
