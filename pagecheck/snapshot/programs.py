"""Other programs that are asked something: QEMU itself, and qemu-img."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from pagecheck.errors import EngineError
from pagecheck.printable import printable


def run_program(
    program: str, arguments: Sequence[str], seconds: float, needed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs one to its end; it reads nothing.

    Args:
        program: its name or path.
        seconds: how long it may take.
        needed: what it is needed for, such as ", and overlays need it".

    Raises:
        EngineError: it is not there, cannot be run, or takes longer.
    """
    shown, path = printable(program), shutil.which(program)
    if path is None:
        raise EngineError(f"{shown}: is not a program that can be run{needed}; install it")
    try:
        return subprocess.run(
            [path, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{shown} {arguments[0]}: no end in {seconds:.0f} s") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EngineError(f"{shown}: cannot be run: {why}") from error
