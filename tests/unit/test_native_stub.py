"""`_native.pyi` states the extension as it is: its names, kinds and numbers of arguments."""

import ast
import mmap
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pagecheck import native
from pagecheck.native import Portal, ProcessWalk, Walk, _native
from tests.unit.native_entries import World

STUB = ast.parse((Path(native.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))
ONLY_FOR_TYPES = {"CheckTarget", "Memory"}
PIECES = struct.pack("4Q", 0, 64 * 4096, _native.ABSENT_ZERO, 0)
GIVEN = 60  # more than any entry takes


class Arguments(NamedTuple):
    """How many a call takes, `self` aside."""

    least: int
    most: int


def _of(function: ast.FunctionDef, *, bound: bool) -> Arguments:
    assert not function.args.args or bound, f"{function.name}: no keywords are taken"
    most = len(function.args.posonlyargs) + len(function.args.args) - bound
    return Arguments(most - len(function.args.defaults), most)


def _stub_functions() -> Iterator[tuple[str, Arguments]]:
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _of(node, bound=False)
        elif isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and not each.decorator_list:
                    yield f"{node.name}.{each.name}", _of(each, bound=True)


FUNCTIONS = dict(_stub_functions())


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def _public(names: Any) -> set[str]:
    return {name for name in names if not name.startswith("__")}


def test_the_names_of_the_module() -> None:
    stated = {node.name for node in STUB.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in STUB.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            stated.add(node.target.id)
    assert stated - ONLY_FOR_TYPES == _public(vars(_native))


def test_constants_are_numbers() -> None:
    for node in STUB.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Final[int]":
            assert isinstance(node.target, ast.Name)
            assert type(getattr(_native, node.target.id)) is int


@pytest.mark.parametrize(
    "stated", [node for node in STUB.body if isinstance(node, ast.ClassDef)], ids=lambda n: n.name
)
def test_the_names_of_a_type(stated: ast.ClassDef) -> None:
    names = {each.name for each in stated.body if isinstance(each, ast.FunctionDef)}
    assert _public(names) == _public(vars(getattr(_native, stated.name)))


def _refused(call: Callable[..., Any], given: int) -> tuple[str, int]:
    """What the call itself says of a number of arguments that it does not take."""
    with pytest.raises(TypeError) as caught:
        call(*[object()] * given)
    found = re.search(r"takes (no|exactly|at least|at most)(?: (\d+))? arg", str(caught.value))
    assert found, caught.value
    return found[1], int(found[2] or 0)


def _taken(call: Callable[..., Any]) -> Arguments:
    how, most = _refused(call, GIVEN)
    return Arguments(_refused(call, 0)[1] if how == "at most" else most, most)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_number_of_arguments(world: World, name: str) -> None:
    owner, _, method = name.rpartition(".")
    target: Any = _native
    if method == "__init__":
        assert _taken(getattr(_native, owner)) == FUNCTIONS[name]
        return
    if owner:
        target = {
            "Feed": world.feed,
            "Worker": world.worker,
            "Portal": Portal(mmap.mmap(-1, 4096)),
            "ProcessWalk": ProcessWalk(0, 0, 4096, 64, PIECES, bytearray(8), bytearray(8)),
            "Walk": Walk(0, 0, 4096, 64, bytearray(8), bytearray(8)),
        }[owner]
    assert _taken(getattr(target, method)) == FUNCTIONS[name]
