"""The C helper: kernels, ring words, bitmaps. `_native.pyi` documents what it offers."""

try:
    import pagecheck.native._native as _native
    from pagecheck.native._native import Feed, Portal, ProcessWalk, Walk, Worker
except ImportError as error:
    raise ImportError(
        f"the C helper cannot be loaded: {error}; install pagecheck (docs/installation.md) and use "
        "it from outside its source tree, or build the helper there again with 'pip install -e .'",
        name="pagecheck.native._native",
    ) from error

__all__ = ["Feed", "Portal", "ProcessWalk", "Walk", "Worker", "_native"]
