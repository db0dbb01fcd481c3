"""`pagecheck.h`, for VMM authors: `cc $(pagecheck --includes) ...`, or pkg-config."""

from __future__ import annotations

import os


def folder() -> str:
    """The folder of `pagecheck.h`."""
    return os.path.dirname(os.path.abspath(__file__))
