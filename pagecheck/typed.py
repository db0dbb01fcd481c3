"""Of `typing`, what a plain scan needs at run time: `typing` itself would be an eighth of its time.

Facts: `typing` loads `re` and `enum`, and its NamedTuple compiles every annotation of every class.
Decision: type checkers see `typing`; at run time a module that a plain scan loads has these. A
named tuple is a `collections.namedtuple` with the class's fields, defaults, methods and docstring,
a Literal the tuple of its values, a Protocol an ordinary class.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any


class _Maker(type):
    """Makes a named tuple of each class that is derived from `NamedTuple`."""

    def __new__(cls, name: str, bases: tuple[type, ...], members: dict[str, Any]) -> type:
        if not bases:
            return super().__new__(cls, name, bases, members)
        fields = list(members.get("__annotations__", ()))
        defaults = [members.pop(field) for field in fields if field in members]
        module = members["__module__"]
        base = namedtuple(name, fields, defaults=defaults, module=module)  # type: ignore[misc]
        return type(name, (base,), {"__slots__": (), **members})


class NamedTuple(metaclass=_Maker):
    """Base of a class whose annotated names are the fields of a tuple."""


class Literal:
    """`Literal["a", "b"]` is ("a", "b")."""

    def __class_getitem__(cls, values: Any) -> tuple[Any, ...]:
        return values if isinstance(values, tuple) else (values,)


class Protocol:
    """Base of a class that only says what others have."""
