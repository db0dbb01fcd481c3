"""What a VMM's command line says of guest RAM and of the sockets it answers on: the values, and how
the words are read. Pure text; nothing is opened here.

Danger: a command line is what the VMM was started with, and any program can have any. Decision: it
is a hint, which the process's mappings must bear out; what cannot be read is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

_SIZE: Final = re.compile(
    r"(\d{1,20}|\d{0,20}\.\d{1,20}|0x[0-9a-f]{1,16})([bkmgtpe]?)(?:i?b)?", re.ASCII
)
_SIZE_MAX: Final = 1 << 62
_DESCRIPTOR: Final = re.compile(r"\d{1,9}", re.ASCII)
_SHIFTS: Final = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50, "e": 60}
_TRUE: Final = {"on", "yes", "true", "y"}


class RamOption(NamedTuple):
    """One RAM block that a command line asks for.

    Attributes:
        name: what the VMM calls it.
        size: bytes.
        is_shared: whether other processes can map it; None where the command line leaves it open.
    """

    name: str
    size: int
    is_shared: bool | None = False


class ControlSocket(NamedTuple):
    """A socket on which a VMM takes commands.

    Attributes:
        kind: "qmp", "ch", "fc" or "crosvm", as sources begin.
        path: as written: in the VMM's mount namespace, relative to the folder that it was started
            in; empty where the socket was given by descriptor.
        fd: the descriptor that it was given by, or -1.
    """

    kind: str
    path: str
    fd: int = -1


class CommandLine(NamedTuple):
    """What a VMM's command line says.

    Attributes:
        vmm: such as "QEMU"; empty where the program is not one that we know.
        name: the VM's; empty where it has none.
        ram: its RAM blocks; empty where their sizes are not on the command line.
        sockets: where it takes commands.
        confidential: the word that makes it a confidential VM; empty where there is none.
        is_default: whether the size of the first RAM block is what the VMM takes when none is
            given.
    """

    vmm: str
    name: str = ""
    ram: tuple[RamOption, ...] = ()
    sockets: tuple[ControlSocket, ...] = ()
    confidential: str = ""
    is_default: bool = False

    @property
    def ram_bytes(self) -> int:
        """Bytes of all RAM blocks; 0 where they are not known."""
        return sum(each.size for each in self.ram)


def size_bytes(text: str, unit: str = "b") -> int | None:
    """A size as VMMs write it.

    Args:
        text: such as "256", "4G", "1.5g", "0x1000" or "512MiB".
        unit: the first letter of the unit that it has without one.

    Returns:
        Bytes; None where it is not a size, or larger than any memory.

    Source: qemu_strtosz() in QEMU's util/cutils.c; all units are binary.
    """
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    number, suffix = match.groups()
    shift = _SHIFTS[suffix or unit]
    if "." in number:
        size = int(float(number) * (1 << shift))
    else:
        size = int(number, 16 if number.startswith("0x") else 10) << shift
    return size if size < _SIZE_MAX else None


def descriptor(text: str) -> int:
    """A descriptor's number on a command line; -1 where it is none."""
    return int(text) if _DESCRIPTOR.fullmatch(text) else -1


def is_on(value: str) -> bool:
    """Whether a value of an option means yes."""
    return value.lower() in _TRUE


def key_values(text: str, first_key: str = "") -> dict[str, str]:
    """The keys of an option such as "socket,id=mon,path=/run/a,,b,server".

    Args:
        text: commas in values are doubled; or JSON, as libvirt writes it.
        first_key: the key of a first word that has none.

    Returns:
        The last value of each key; that of a key without one is "on", or "off" after "no".
    """
    if text.startswith("{"):
        return _from_json(text)
    found: dict[str, str] = {}
    for number, part in enumerate(parts(text)):
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        elif number == 0 and first_key:
            found[first_key] = part
        elif part:
            found[part] = "on"
            if part.startswith("no"):
                found[part[2:]] = "off"
    return found


def parts(text: str) -> list[str]:
    """The parts of an option's value, their doubled commas single."""
    found = [""]
    left = iter(re.split("(,+)", text))
    for word in left:
        if not word.startswith(","):
            found[-1] += word
            continue
        found[-1] += "," * (len(word) // 2)
        if len(word) % 2:
            found.append("")
    return found


def _from_json(text: str) -> dict[str, str]:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {key: _as_text(value) for key, value in members.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else json.dumps(value)


def options(
    words: list[str],
    *,
    many: frozenset[str] = frozenset(),
    any_word: frozenset[str] = frozenset(),
) -> Iterator[tuple[str, str]]:
    """The options of a command line: `--name value`, `--name=value`, `-name value`.

    Args:
        words: what follows the program's name.
        many: names of options that take every word up to the next option.
        any_word: names of options whose value may begin with a dash.

    Yields:
        (name without dashes, value); the value is empty where the next word is an option, too.
    """
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        values = [value] if equals else []
        while at < len(words) and (not values or name in many):
            if words[at].startswith("-") and (values or name not in any_word):
                break
            values.append(words[at])
            at += 1
        for each in values or [""]:
            yield name, each
