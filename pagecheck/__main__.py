"""The `pagecheck` program, also `python -m pagecheck`: streams and signals first, then the rest."""

from __future__ import annotations

import _signal  # `signal` adds names for people, at the cost of every start
import os
import sys

# Until `install` an interrupt ends the program as it ends any other: Python's own handler would
# print a traceback of what is being imported. `_signal` is built in, so that this comes first.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

from pagecheck.cli.signals import Terminated, install
from pagecheck.cli.streams import leave, open_missing, say

TYPE_CHECKING = False  # nothing heavy is imported before the handlers are installed
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Runs the command line and exits with its code."""
    code = 130
    try:
        install()
        open_missing()
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except Terminated as error:
        code = error.exit_code
        say(f"pagecheck: {error}")
    except BrokenPipeError:
        code = 141
    except OSError as error:
        code = 2
        say(f"pagecheck: cannot write the output: {error.strerror}")
    leave(code)


def _run(arguments: list[str]) -> int:
    if (instruction := os.environ.get("_PAGECHECK_COMPLETE")) is not None:  # set by the shell
        from pagecheck.cli.main import complete

        return complete(instruction)
    from pagecheck.cli import plain

    code = plain.run(arguments)
    if code is not None:
        return code
    from pagecheck.cli.main import run_command

    return run_command(arguments)


if __name__ == "__main__":
    main()
