"""Bitmaps as numpy arrays, their length and padding checked."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def bits(words: Any, pages: int) -> Bools:
    """A bitmap as bool[pages]; it is as long as it must be, and its padding is 0."""
    assert words is not None
    every = np.unpackbits(np.frombuffer(words, np.uint8), bitorder="little").astype(np.bool_)
    assert len(every) == (pages + 63) // 64 * 64
    assert not every[pages:].any()
    return every[:pages]


def file_bits(path: str | os.PathLike[str], pages: int) -> Bools:
    """A bitmap file as bool[pages]."""
    return bits(Path(path).read_bytes(), pages)
