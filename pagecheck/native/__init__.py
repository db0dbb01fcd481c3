"""The C helper: kernels, ring words, bitmaps. `_native.pyi` documents what it offers."""

try:
    import pagecheck.native._native as _native
except ImportError as error:
    raise ImportError(
        f"the C helper cannot be loaded: {error}; install pagecheck (docs/installation.md) and use "
        "it from outside its source tree",
        name="pagecheck.native._native",
    ) from error
from pagecheck.native._native import Feed, Portal, Walk, Worker

__all__ = ["Feed", "Portal", "Walk", "Worker", "_native"]
