"""Reads attributes of sysfs as untrusted text: checked before it is used, made short and printable
before it is shown. An invalid one is a reason against the queue, not an exception."""

from __future__ import annotations

import os

DOCUMENT = "docs/hardware.md"

_ATTRIBUTE_BYTES = 4096  # what a sysfs attribute has at most
_SHOWN = 40  # characters of a foreign value in a message


class Folder:
    """The attributes of one sysfs folder; remembers the first that is invalid."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem: str | None = None

    def refuse(self, name: str, value: str, what: str) -> None:
        """Notes that an attribute is invalid."""
        self.problem = self.problem or (
            f"{self.path}/{name} holds {value!r}, {what}; "
            f"no idxd driver writes that, see {DOCUMENT}"
        )

    def has(self, name: str) -> bool:
        """Whether there is such an attribute: not on every kernel."""
        return os.path.exists(f"{self.path}/{name}")

    def text(self, name: str, default: str | None = None) -> str:
        """The value, short and printable; `default`, if there is one, where the file is absent."""
        raw = self._read(name, optional=default is not None)
        if raw is None:
            return default or ""
        if not raw and default is None:
            self.refuse(name, raw, "nothing")
        return printable(raw, _SHOWN)

    def number(self, name: str, default: int | None = None) -> int:
        """The value, decimal or 0x-hexadecimal; 0 where it cannot be had."""
        raw = self._read(name, optional=default is not None)
        if raw is None:
            return default or 0
        value = -1 if raw == "-1" and default == -1 else digits(raw)
        if value is None:
            self.refuse(name, printable(raw, _SHOWN), "not a number")
        return value or 0

    def opcodes(self, name: str, default: int | None = None) -> int:
        """The lowest 32 opcodes of a bitmap, or more; `default`, if there is one, where the file
        is absent.

        The kernel prints 32-bit groups, comma-separated, the most significant first; before it had
        op_config: up to four 64-bit numbers, space-separated, the least significant first.
        """
        raw = self._read(name, optional=default is not None)
        if raw is None:
            return default or 0
        groups = raw.split(",") if "," in raw else raw.split()[::-1] or [""]
        values = [digits("0x" + group.removeprefix("0x")) for group in groups]
        if None in values:
            self.refuse(name, printable(raw, _SHOWN), "not a bitmap")
        return values[-1] or 0

    def _read(self, name: str, *, optional: bool) -> str | None:
        path = f"{self.path}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                return os.read(fd, _ATTRIBUTE_BYTES).decode(errors="replace").strip()
            finally:
                os.close(fd)
        except FileNotFoundError:
            if not optional:
                self.problem = self.problem or (
                    f"{path} is missing; pagecheck needs Linux 5.18 or later, see {DOCUMENT}"
                )
        except OSError as error:
            self.problem = self.problem or f"{path}: {error.strerror}; see {DOCUMENT}"
        return None


def attributes(folder: str) -> dict[str, str]:
    """Every readable attribute of a folder, each short and printable, for a report."""
    found = {}
    for name in sorted(names(folder)):
        path = f"{folder}/{name}"
        if os.path.isfile(path) and os.access(path, os.R_OK):
            value = Folder(folder)._read(name, optional=True)
            found[printable(name, _SHOWN)] = printable(value or "", 200)
    return found


def names(folder: str) -> list[str]:
    """What a folder holds; nothing where it cannot be listed."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def digits(text: str) -> int | None:
    """A number below 2**64 in ASCII digits, 0x for hexadecimal; int() takes much more."""
    digits, base = (text[2:], 16) if text[:2] == "0x" else (text, 10)
    allowed = "0123456789abcdefABCDEF"[: 10 if base == 10 else 22]
    if not digits or len(digits) > 20 or digits.strip(allowed):
        return None
    value = int(digits, base)
    return value if value >> 64 == 0 else None


def printable(text: str, most: int) -> str:
    """Foreign text, fit for one line of a message."""
    kept = "".join(c if c.isprintable() else "?" for c in text[:most])
    return kept + "..." if len(text) > most else kept
