"""Each CPU kernel that runs here, beside the portable one and numpy, on the same random pages."""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np

from pagecheck.errors import EngineError
from pagecheck.hw.cpu import self_test
from pagecheck.native import _native
from pagecheck.selftest.run import bits
from pagecheck.selftest.wrong import Wrong, require_same

PORTABLE: Final = "portable"
_BYTES: Final = 4 << 20
_PAGE_SIZES: Final = (4096, 8192, 65536, 2 << 20)
_ROUNDS: Final = 20


def usable_kernels() -> list[str]:
    """Names of the kernels that this CPU runs, best first."""
    return [name for name, why_not, _untested in _native.kernels() if why_not is None]


def try_kernel(name: str, seed: int) -> int:
    """Compares it, in any order of pages.

    Returns:
        How many pages were compared.

    Raises:
        Wrong: it fails its own test, or an answer is not that of numpy or of the portable kernel.
    """
    try:
        self_test(name)
    except EngineError as error:
        raise Wrong(str(error)) from error
    dice = np.random.default_rng(seed)
    compared = 0
    memory = mmap.mmap(-1, _BYTES)  # goes with the last array that looks into it
    for turn in range(_ROUNDS):
        compared += _compare(name, memory, _PAGE_SIZES[turn % len(_PAGE_SIZES)], dice)
    return compared


def _compare(name: str, memory: mmap.mmap, page_size: int, dice: np.random.Generator) -> int:
    """Half of the pages get one bit that is not zero, anywhere in them."""
    pages = _BYTES // page_size
    words = np.frombuffer(memory, np.uint8)
    content = words.reshape(pages, page_size)
    content[:] = 0
    normal = dice.random(pages) < 0.5
    places = dice.integers(0, page_size, pages)
    content[normal, places[normal]] = 1 << dice.integers(0, 8, int(normal.sum()), np.uint8)
    asked = dice.permutation(pages).astype(np.uint64)
    if dice.random() < 0.5:
        asked.sort()
    right = np.logical_not(content.any(axis=1))[asked]
    for each in (name, PORTABLE):
        found = np.zeros((pages + 63) // 64, np.uint64)
        _native.kernel_zero_pages(each, memory, page_size, asked * np.uint64(page_size), found)
        zero = bits(memoryview(found.tobytes()), pages)
        require_same(f"kernel {each}, pages of {page_size} bytes", zero, right)
    return pages
