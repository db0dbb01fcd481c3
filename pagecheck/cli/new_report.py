"""A report in a new file; no file is replaced."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from pagecheck.errors import OutputError, UsageError
from pagecheck.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def new_report(path: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A new file for a JSON document: see `new_file`.

    Yields:
        What writes the document.
    """
    with new_file(path) as write:
        yield lambda document: write(json.dumps(document, indent=1) + "\n")


@contextlib.contextmanager
def new_file(path: str | None) -> Iterator[Callable[[str], None]]:
    """Finds out before the work that a file can be made for what it reports. The file has its name
    once it is whole.

    Args:
        path: None: there is none, and nothing is written.

    Yields:
        What writes the whole text, and gives the file its name.

    Raises:
        UsageError: there is no name.
        OutputError: the file exists, or cannot be written.
    """
    if path is None:
        yield lambda _text: None
        return
    if not path:
        raise UsageError("an empty text is not the name of a file")
    from pagecheck.report.publish import Draft, sync

    folder, name = os.path.split(path)
    with contextlib.ExitStack() as stack:
        with _refusals(path):
            fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            _require_free(fd, name)
            draft = stack.enter_context(Draft(fd))

        def write(text: str) -> None:
            with _refusals(path):
                draft.write(text.encode())
                draft.publish(name)
                sync(fd)

        yield write


def _require_free(folder: int, name: str) -> None:
    """An error where no new file can have that name."""
    with contextlib.suppress(FileNotFoundError):
        os.stat(name or ".", dir_fd=folder, follow_symlinks=False)
        raise FileExistsError


@contextlib.contextmanager
def _refusals(path: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise OutputError(
            f"{printable(path)}: exists; give a new name, nothing is replaced"
        ) from error
    except OSError as error:
        raise OutputError(f"{printable(path)}: cannot write: {error.strerror}") from error
