"""The C helper: kernels, ring words, bitmaps. `_native.pyi` documents what it offers."""

from pagecheck.native import _native
from pagecheck.native._native import Feed, Portal, Walk, Worker

__all__ = ["Feed", "Portal", "Walk", "Worker", "_native"]
