"""What a command ends with: its exit code, and one line on stderr for every error."""

from __future__ import annotations

import errno
import os

from pagecheck.cli.signals import Terminated
from pagecheck.cli.streams import say
from pagecheck.errors import EngineError, InternalError, PagecheckError, ResourceError
from pagecheck.printable import printable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

STALE: Final = (
    "the C helper is older than its sources, and may be the reason: build it again with "
    "'make test' or 'pip install -e .'"
)


def outcome(run: Callable[[], int], *, as_json: bool) -> int:
    """Runs a command and returns its exit code.

    Args:
        as_json: errors are JSON on stdout, too.

    Raises:
        OSError: what it printed could not be written.
    """
    try:
        return run()
    except PagecheckError as error:
        text = str(error)
        if isinstance(error, InternalError) and helper_is_stale():
            text = f"{text}; {STALE}"
        return _fail(type(error).__name__, text, error.exit_code, as_json=as_json)
    except Terminated as error:
        return _fail("Terminated", str(error), error.exit_code, as_json=as_json)
    except ImportError as error:
        if error.name != "pagecheck.native._native":
            return _bug(error, as_json=as_json)
        return _fail(EngineError.__name__, str(error), EngineError.exit_code, as_json=as_json)
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        return _bug(error, as_json=as_json)
    except Exception as error:
        return _bug(error, as_json=as_json)


def _fail(name: str, text: str, code: int, *, as_json: bool) -> int:
    text = printable(" ".join(text.split()))
    if as_json:
        import json

        print(json.dumps({"version": 1, "error": {"class": name, "message": text}}))
    say(f"pagecheck: {text}")
    return code


def helper_is_stale() -> bool:
    """Whether the C helper is older than its sources, which are there in an editable install only:
    then it is of another pagecheck than the Python around it."""
    from pathlib import Path

    native = Path(__file__).parents[1] / "native"
    try:
        newest = max((path.stat().st_mtime for path in native.glob("*/*.[ch]")), default=0.0)
        built = max((path.stat().st_mtime for path in native.glob("_native*.so")), default=newest)
    except OSError:
        return False
    return built < newest


def _bug(error: Exception, *, as_json: bool) -> int:
    from pagecheck.shortage import explain, forbidden, is_forbidden

    # Only who starts a process knows that EAGAIN means a limit on processes.
    shortage = None if isinstance(error, BlockingIOError) else explain(error)
    if shortage is not None:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        text = f"{where}{shortage}"
        return _fail(ResourceError.__name__, text, ResourceError.exit_code, as_json=as_json)
    if is_forbidden(error) and not os.environ.get("PAGECHECK_DEBUG"):
        assert isinstance(error, OSError)
        text = forbidden("a system call (PAGECHECK_DEBUG=1 shows where)", error.errno or 0)
        return _fail(EngineError.__name__, text, EngineError.exit_code, as_json=as_json)
    if os.environ.get("PAGECHECK_DEBUG"):
        raise error
    what = f"a bug in pagecheck: {type(error).__name__}: {error}; "
    what += "PAGECHECK_DEBUG=1 shows where" if not helper_is_stale() else STALE
    return _fail(InternalError.__name__, what, InternalError.exit_code, as_json=as_json)
