"""A JSON report in a new file; no file is replaced."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from pagecheck.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def new_report(path: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Makes the file before the work that it reports; it is removed where that work fails.

    Args:
        path: None: there is none, and nothing is written.

    Yields:
        What writes the document.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    if path is None:
        yield lambda _document: None
        return
    try:
        file = open(path, "x")  # noqa: SIM115  # it is closed below
    except FileExistsError as error:
        raise OutputError(f"{path}: exists; give a new name, nothing is replaced") from error
    except OSError as error:
        raise _unwritable(path, error) from error

    def write(document: dict[str, Any]) -> None:
        try:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
        except OSError as error:
            raise _unwritable(path, error) from error

    try:
        yield write
    except BaseException:
        os.unlink(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _unwritable(path: str, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot write: {error.strerror}")
