"""Named tuples made without `typing` are those that `typing` makes."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from pagecheck import model, typed


def declare(base: Any) -> Any:
    class Point(base):
        """Where."""

        x: int
        y: int | None = None
        names: tuple[str, ...] = ()

        @property
        def total(self) -> int:
            return self.x + (self.y or 0)

        @classmethod
        def at(cls, x: int) -> Any:
            return cls(x)._replace(names=(cls.__name__,))

    return Point


OURS, THEIRS = declare(typed.NamedTuple), declare(typing.NamedTuple)


@pytest.mark.parametrize("name", ["_fields", "_field_defaults", "__doc__", "__module__"])
def test_it_has_what_theirs_has(name: str) -> None:
    assert getattr(OURS, name) == getattr(THEIRS, name)


def test_it_does_what_theirs_does() -> None:
    assert repr(OURS(1, names=("a",))) == repr(THEIRS(1, names=("a",)))
    assert OURS(1, 2) == THEIRS(1, 2) == (1, 2, ())
    assert OURS.at(3).total == 3
    assert (
        OURS.at(3)._asdict() == THEIRS.at(3)._asdict() == {"x": 3, "y": None, "names": ("Point",)}
    )
    for make in (OURS, THEIRS):
        with pytest.raises(TypeError):
            make()
        with pytest.raises(AttributeError):
            make(1).x = 2
        with pytest.raises(AttributeError):
            make(1).z = 2


def test_those_of_the_package_travel() -> None:
    block = model.RamBlock("a", 8192, 4096)
    assert type(pickle.loads(pickle.dumps(block))) is model.RamBlock
    assert block.pages == 2


def test_a_choice_is_its_values() -> None:
    assert typed.Literal["a", "b"] == ("a", "b")
    assert typed.Literal["a"] == ("a",)
    assert model.Kind == ("full", "diff")
