"""`--out DIR`: bitmap files and the report, each complete or not there.

`NAME.zero`, `NAME.normal` and, for a diff, `NAME.unchanged` hold little-endian 64-bit words, bit
i % 64 of word i / 64 is page i, padding bits 0. NAME is the block's name, percent-encoded.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from pagecheck.errors import OutputError
from pagecheck.report import BlockReport, Report

REPORT = "report.json"
KINDS = ("zero", "normal", "unchanged")
NAME_MAX = 255


def prepare(out: str | os.PathLike[str], name: str, source: str) -> None:
    """Makes the folder and proves that files can be made in it, before any work is done.

    Args:
        name: the block's name.
        source: a path to the scanned file: no result may take its place.

    Raises:
        OutputError: files cannot be made there, or one would replace the source.
    """
    folder = Path(out)
    names = [f"{_encoded(name)}.{kind}" for kind in KINDS]
    if max(len(each) for each in names) > NAME_MAX:
        raise OutputError(f"{folder}: the block's name is too long for a file name: {names[0]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{folder}: cannot write there: {error.strerror}") from error
    for each in (REPORT, *names):
        with contextlib.suppress(OSError):
            if os.path.samefile(folder / each, source):
                raise OutputError(f"{folder / each}: is the source itself; choose another folder")


def _encoded(name: str) -> str:
    return quote(os.fsencode(name), safe="")


def write(report: Report, out: str | os.PathLike[str]) -> Report:
    """Writes the bitmaps of every block, then the report that names them.

    Returns:
        The report with `files` filled in.

    Raises:
        OutputError: a file cannot be written; those already there are complete.
    """
    folder = Path(out)
    report = report.with_blocks(tuple(_write_block(block, folder) for block in report.blocks))
    text = json.dumps(report.to_json(), indent=2) + "\n"
    with _replacing(folder / REPORT) as file:
        file.write(text.encode())
    return report


def _write_block(block: BlockReport, folder: Path) -> BlockReport:
    files: dict[str, str] = {}
    bitmaps = {"zero": block.zero, "normal": block.normal, "unchanged": block.unchanged}
    for kind, words in bitmaps.items():
        if words is not None:
            path = folder / f"{_encoded(block.block.name)}.{kind}"
            with _replacing(path) as file:
                file.write(words)
            files[kind] = str(path)
    return replace(block, files=files)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its place when all went well."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".pagecheck-", delete=False) as f:
            temporary = f.name
            yield f  # type: ignore[misc]  # tempfile's wrapper is a BinaryIO in all but name
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
