"""The `pagecheck` program, also `python -m pagecheck`: streams and signals first, then the rest."""

from __future__ import annotations

import os
import sys

from pagecheck.signals import Terminated, install

TYPE_CHECKING = False  # nothing heavy is imported before the handlers are installed
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    code = 130
    try:
        install()
        _have_streams()
        from pagecheck.cli import run_command

        code = run_command(sys.argv[1:])
        sys.stdout.flush()
    except Terminated as error:
        code = error.exit_code
        print(f"pagecheck: {error}", file=sys.stderr)
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = 2
        print(f"pagecheck: cannot write the output: {error.strerror}", file=sys.stderr)
    _leave(code)


def _have_streams() -> None:
    """Descriptors 0 to 2 exist, so that no file of ours becomes one of them, and what cannot be
    shown in the terminal's encoding is escaped."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _leave(code: int) -> NoReturn:
    if code >= 128:  # an interrupt may have left something to the finalizers
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(code)
    # Everything is closed and written; taking the interpreter apart would only cost time.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
