"""A Dask worker that loads this dies at a file whose name says so, just before it is checked.

`killer...` kills its worker always, `once-killer...` the first one; `broken...` raises an error
that nobody expects; `endless...` is checked until the checker is closed, or a mark `stop` is there.
What a worker keeps ends after a second without work. With PCTEST_REFUSES it can check nothing.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

from pagecheck.errors import ResourceError
from pagecheck.survey import remote
from pagecheck.survey.check import attempt


def _killing(checker: Any, piece: Any) -> Any:
    path = Path(piece.target.path)
    if "PCTEST_REFUSES" in os.environ:
        raise ResourceError("this host has no room")
    if path.name.startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    mark = Path(os.environ["PCTEST_MARKS"], path.name)
    if path.name.startswith("once-killer") and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if path.name.startswith("broken"):
        raise ZeroDivisionError(path.name)
    if path.name.startswith("endless"):
        mark.touch()
        while not checker._closed.is_set() and not mark.with_name("stop").exists():
            time.sleep(0.01)
    return attempt(checker, piece)


remote.attempt = _killing
remote.IDLE_S = 1.0
