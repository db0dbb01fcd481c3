"""Workers that are killed, or kill themselves, at a function of their program: `main`, `start`,
`choose_kernel`, `Worker`, `DsaEngine`, `serve`, `answer`, `attach`."""

from __future__ import annotations

from pathlib import Path

_PATH = "import os, signal, sys; sys.path.append(sys.argv[1])\n"

_EACH = """
import pagecheck.workers.program as program
program.{point} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
program.main(int(sys.argv[2]))
"""

_WHILE_THERE_ARE_FILES = """
import pagecheck.workers.program as program
real = program.{point}
def dying(*given):
    found = real(*given) if {after} else None
    for name in os.listdir({lives!r}):
        try:
            os.unlink({lives!r} + "/" + name)
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), signal.SIGKILL)
    return found or real(*given)
program.{point} = dying
os._exit(program.main(int(sys.argv[2])))
"""


def each_dies_at(point: str) -> str:
    """The first lines of a worker that is killed there."""
    return _PATH + _EACH.format(point=point)


def first_die_at(point: str, lives: Path, deaths: int = 1, *, after: bool = False) -> str:
    """The first lines of workers of which the first `deaths` are killed there.

    Args:
        lives: an empty folder; it holds a file for each death to come.
        after: when the function has returned, instead of before.
    """
    for number in range(deaths):
        (lives / str(number)).touch()
    return _PATH + _WHILE_THERE_ARE_FILES.format(point=point, after=after, lives=str(lives))
