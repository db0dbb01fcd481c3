"""Sizes as users write them."""

from __future__ import annotations

_DIGITS_MAX = 20  # 2**64; int() refuses some thousands
_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes, with K, M, G or T (also KiB and so on) for powers of 1024.

    Raises:
        ValueError: it is none; the text says what one looks like.
    """
    bare = text.strip().upper().removesuffix("/S").removesuffix("IB").removesuffix("B")
    factor = _SUFFIXES.get(bare[-1:], 1)
    number = bare[:-1] if factor > 1 else bare
    if not (number.isascii() and number.isdigit() and len(number) <= _DIGITS_MAX):
        raise ValueError(f"{text!r} is not a size; write bytes or such as 64K, 512M, 4G")
    return int(number) * factor
