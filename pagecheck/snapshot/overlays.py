"""A qcow2 overlay for each clone on top of each disk, made by qemu-img."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from typing import Final

from pagecheck.errors import OutputError
from pagecheck.printable import printable
from pagecheck.snapshot.command_words import Option, replaced, with_keys
from pagecheck.snapshot.programs import run_program

_IMAGE_S: Final = 60.0


class Disk:
    """A disk of a command that clones write to overlays of.

    Attributes:
        name: what the user calls it.
    """

    def __init__(self, name: str, option: Option) -> None:
        """Looks at the image.

        Raises:
            EngineError: there is no qemu-img.
            OutputError: the image cannot be read.
        """
        self.name = name
        keys = option.keys() if option.name == "drive" else {"file": option.value}
        self._base = os.path.abspath(keys["file"])
        self._option = option
        self._format = keys.get("format") or _format_of(self._base)

    def file_name(self, number: int, taken: Collection[str]) -> str:
        """The name of a clone's overlay; a number is appended where other disks took it."""
        plain = "".join(each if each.isalnum() else "-" for each in os.path.basename(self.name))
        name, tried = f"clone{number}-{plain}.qcow2", 1
        while name in taken:
            tried += 1
            name = f"clone{number}-{plain}-{tried}.qcow2"
        return name

    def make(self, path: str) -> None:
        """Creates an overlay.

        Raises:
            OutputError: it cannot be created.
        """
        _run("create", "-q", "-f", "qcow2", "-b", self._base, "-F", self._format, path)

    def with_overlay(self, words: Sequence[str], path: str) -> list[str]:
        """The command with an overlay in the place of the disk."""
        if self._option.name == "drive":
            value = with_keys(self._option.value, file=path, format="qcow2")
        else:
            value = path
        return replaced(list(words), self._option, value)


def _format_of(path: str) -> str:
    try:
        found = json.loads(_run("info", "--force-share", "--output=json", path))
        return str(found["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{printable(path)}: qemu-img does not tell its format") from error


def _run(*arguments: str) -> str:
    ran = run_program("qemu-img", arguments, _IMAGE_S, ", and overlays need it (qemu-utils)")
    if ran.returncode:
        why = " ".join(ran.stderr.split())[-300:]
        raise OutputError(f"qemu-img {arguments[0]} {printable(arguments[-1])}: {printable(why)}")
    return ran.stdout
