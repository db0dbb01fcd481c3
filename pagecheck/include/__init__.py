"""`pagecheck.h` and what it includes, for VMM authors: `cc $(pagecheck --includes) ...`, or
pkg-config; and `libpagecheck.h` for those who link: `... $(pagecheck --libs)`."""

from __future__ import annotations

import os


def folder() -> str:
    """The folder of `pagecheck.h`."""
    return os.path.dirname(os.path.abspath(__file__))


def library() -> str:
    """`libpagecheck.so.1`, the same functions as symbols; it need not exist."""
    return os.path.join(os.path.dirname(folder()), "lib", "libpagecheck.so.1")
