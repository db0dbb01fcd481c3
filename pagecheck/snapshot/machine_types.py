"""The machine types of a QEMU, which is asked for them beside other work: it takes longer to list
them than all that is compared before a restore.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pagecheck.errors import PeerError
from pagecheck.printable import printable
from pagecheck.snapshot.programs import AskedProgram

_HELP_S: Final = 20.0
_TYPE: Final = re.compile(r"(\S+) +.*?(?:\(alias of (\S+)\))?(?: \(deprecated\))?")
_DEFAULT: Final = "(default)"


class MachineTypes(NamedTuple):
    """The machine types of one QEMU.

    Attributes:
        names: what each name means: an alias another name, every other itself.
        default: of a command that names none; empty where there is no such.
    """

    names: dict[str, str]
    default: str


class TypesQuery(AskedProgram):
    """A QEMU that lists its machine types."""

    def __init__(self, program: str) -> None:
        """Starts it.

        Args:
            program: its name or path.

        Raises:
            EngineError: it cannot be run.
        """
        super().__init__(program, ["-machine", "help"], _HELP_S)

    def types(self) -> MachineTypes:
        """Waits for the list.

        Raises:
            EngineError: it does not end.
            PeerError: it does not tell.
        """
        ran = self.answer()
        found = parse_types(ran.stdout)
        if ran.returncode or not found.names:
            why = " ".join(ran.stderr.split())[-200:] or "it lists none"
            raise PeerError(f"{self.shown} -machine help: {printable(why)}")
        return found


def parse_types(text: str) -> MachineTypes:
    """What `-machine help` says."""
    names, default = {}, ""
    for line in text.splitlines():
        is_default = line.endswith(_DEFAULT)
        match = _TYPE.fullmatch(line.removesuffix(_DEFAULT).rstrip())
        if match is None or line.endswith(":"):
            continue
        names[match[1]] = match[2] or match[1]
        default = match[1] if is_default else default
    return MachineTypes(names, default)
