"""Members of a JSON object that anybody may have written: each is checked by type and range, and
what nobody asked for is kept."""

from __future__ import annotations

from pagecheck.errors import SnapshotError
from pagecheck.printable import printable
from pagecheck.snapshot.values import ALGORITHM, MANIFEST, NAME, NAME_BYTES_MAX

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

SIZE_MAX: Final = (1 << 63) - 1  # off_t
TEXT_MAX: Final = 1 << 20
ITEMS_MAX: Final = 1 << 16

_SHOWN_CHARS: Final = 60
_MISSING: Final = object()
_DIGITS: Final = frozenset("0123456789abcdef")


class Members:
    """The members of one object."""

    def __init__(self, value: object, where: str) -> None:
        """Takes an object as it was read.

        Args:
            value: of any type.
            where: what an error begins with: the file, and the place in it.

        Raises:
            SnapshotError: it is not an object.
        """
        if not isinstance(value, dict):
            raise SnapshotError(f"{where}: must be an object, not {_shown(value)}")
        self.where = where
        self._left: dict[str, Any] = dict(value)

    def rest(self) -> dict[str, Any]:
        """The members that were not asked for."""
        return self._left

    def fault(self, name: str, value: object, must: str) -> SnapshotError:
        """The error about a member whose value is not what it must be."""
        return SnapshotError(f"{self.where}.{name}: must be {must}, not {_shown(value)}")

    def take(self, name: str) -> Any:
        """A member of any type.

        Raises:
            SnapshotError: it is missing.
        """
        value = self._left.pop(name, _MISSING)
        if value is _MISSING:
            raise SnapshotError(f"{self.where}: the member {name!r} is missing")
        return value

    def integer(self, name: str, low: int = 0, high: int = SIZE_MAX, step: int = 1) -> int:
        """A whole number between two, both included, and a multiple of `step`."""
        value = self.take(name)
        if type(value) is not int or not low <= value <= high or value % step:
            multiple = f", a multiple of {step}" if step != 1 else ""
            raise self.fault(name, value, f"a whole number from {low} to {high}{multiple}")
        return value

    def boolean(self, name: str) -> bool:
        """true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.fault(name, value, "true or false")
        return value

    def text(self, name: str, most: int = TEXT_MAX) -> str:
        """A text of at least one character."""
        value = self.take(name)
        if not isinstance(value, str) or not 0 < len(value) <= most:
            raise self.fault(name, value, f"a text of 1 to {most} characters")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or null."""
        return None if self.is_null(name) else self.text(name)

    def one_of(self, name: str, values: tuple[str, ...]) -> Any:
        """One of several texts."""
        value = self.take(name)
        if not isinstance(value, str) or value not in values:
            raise self.fault(name, value, f"one of {', '.join(values)}")
        return value

    def file_name(self, name: str) -> str:
        """The name of a file in the directory, and never of one outside."""
        value = self.take(name)
        if not isinstance(value, str) or not is_file_name(value):
            raise self.fault(
                name,
                value,
                f"a file name of 1 to {NAME_BYTES_MAX} letters, digits, '.', '_', '-', the first "
                "one a letter or digit",
            )
        return value

    def checksum(self, name: str) -> str:
        """A checksum with its algorithm in front."""
        value = self.take(name)
        if not isinstance(value, str) or not _is_checksum(value):
            raise self.fault(name, value, f"'{ALGORITHM}:' and 32 digits 0-9a-f")
        return value

    def items(self, name: str) -> list[Any]:
        """An array."""
        value = self.take(name)
        if not isinstance(value, list) or len(value) > ITEMS_MAX:
            raise self.fault(name, value, f"an array of at most {ITEMS_MAX} items")
        return value

    def objects(self, name: str) -> list[Members]:
        """An array of objects."""
        every = enumerate(self.items(name))
        return [Members(each, f"{self.where}.{name}[{number}]") for number, each in every]

    def member(self, name: str) -> Members:
        """An object."""
        return Members(self.take(name), f"{self.where}.{name}")

    def is_null(self, name: str) -> bool:
        """Whether a member is null; it is taken then."""
        if self._left.get(name, _MISSING) is not None:
            return False
        del self._left[name]
        return True


def is_file_name(text: str) -> bool:
    """Whether a file of a snapshot may have this name."""
    return len(text) <= NAME_BYTES_MAX and bool(NAME.fullmatch(text)) and text != MANIFEST


def _is_checksum(text: str) -> bool:
    algorithm, _, digits = text.partition(":")
    return algorithm == ALGORITHM and len(digits) == 32 and _DIGITS.issuperset(digits)


def _shown(value: object) -> str:
    """A value in a message, not too long."""
    if isinstance(value, dict | list):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)} members"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of too many digits"
    return printable(repr(value), _SHOWN_CHARS)


def as_members(pairs: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """An object to be written: its own members, then those that were kept."""
    return {**pairs, **{name: other[name] for name in other if name not in pairs}}
