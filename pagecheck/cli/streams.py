"""The program's standard streams, which may be closed, full or without a reader."""

from __future__ import annotations

import contextlib
import os
import sys

from pagecheck.printable import printable, printable_lines

SAID_MAX = 1 << 16  # more than any text that was shortened before

TYPE_CHECKING = False  # nothing heavy is imported before the signal handlers are installed
if TYPE_CHECKING:
    from typing import Any, NoReturn


_nobody_reads = False


def open_missing() -> None:
    """Makes descriptors 0 to 2 exist, so that no file of ours becomes one of them, and escapes
    characters that the terminal's encoding lacks."""
    global _nobody_reads
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)
    if sys.stdout is None:
        _nobody_reads = True
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def require_reader() -> None:
    """Raises OutputError where standard output was closed when the program started: work whose
    answer would be lost is not started."""
    if _nobody_reads:
        from pagecheck.errors import OutputError

        raise OutputError(
            "standard output is closed, and the answer goes there; redirect it, to /dev/null if "
            "nobody needs it"
        )


def say(text: str) -> None:
    """Prints one line on stderr, whatever the text holds; a failure to write does not change the
    exit code."""
    with contextlib.suppress(OSError):
        print(printable(text, SAID_MAX), file=sys.stderr, flush=True)


def log_to_stderr(*, verbose: bool) -> None:
    """Makes logging write to stderr, everything or warnings only; every message is one printable
    line."""
    import logging

    class OneLine(logging.Formatter):
        def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
            return printable(super().formatMessage(record))

        def formatException(self, ei: Any) -> str:  # noqa: N802
            return printable_lines(super().formatException(ei))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("pagecheck: %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


def leave(code: int) -> NoReturn:
    """Ends the program with that code, whatever state its streams are in."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    if code >= 128:  # an interrupt may have left something to the finalizers
        sys.exit(code)
    # Everything is closed and written; finalizing the interpreter would only cost time.
    os._exit(code)
