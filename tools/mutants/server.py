"""Runs pytest in forks of a process that has loaded what does not change between mutants.

`python -m tools.mutants.server [FOLDER]`: each line of standard input is a JSON list of pytest's
arguments and the seconds it gets; each line of standard output is a JSON object: "code", None past
the limit, and "output". What a run leaves in FOLDER is removed.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, Final

# What the tests load besides the tree: most of a short run's time.
import hypothesis.core
import hypothesis.internal.conjecture.engine
import hypothesis.strategies
import pytest

LOADED: Final = (hypothesis, pytest)
MEMORY_MAX: Final = 4 << 30  # a mutant may collect without end


def main() -> None:
    """Until standard input ends."""
    gc.freeze()
    for line in sys.stdin:
        arguments, limit_s = json.loads(line)
        with tempfile.TemporaryFile() as output:
            code = _run(arguments, limit_s, output)
            output.seek(0)
            text = output.read().decode(errors="replace")
        for folder in sys.argv[1:]:
            _empty(Path(folder))
        print(json.dumps({"code": code, "output": text}), flush=True)


def _run(arguments: list[str], limit_s: float, output: BinaryIO) -> int | None:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_MAX, MEMORY_MAX))
        nothing = os.open(os.devnull, os.O_RDONLY)
        for to, of in ((0, nothing), (1, output.fileno()), (2, output.fileno())):
            os.dup2(of, to)
        status = 70
        try:
            status = int(pytest.main(arguments))
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            os._exit(status)
    with contextlib.suppress(OSError):  # it has done so itself
        os.setpgid(child, child)
    pidfd = os.pidfd_open(child)
    has_ended = bool(select.select([pidfd], [], [], limit_s)[0])
    os.close(pidfd)
    with contextlib.suppress(ProcessLookupError):  # what the tests started ends with them
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) if has_ended else None


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main()
