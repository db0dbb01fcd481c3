"""Mutants of the Python functions that decide: what is looked at, left out, zero, or verified.

They are made from the source: each comparison, condition, constant and arithmetic operator is
changed in turn, and each statement whose value nobody uses is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

from tools.mutants.tree import ROOT
from tools.mutants.values import Mutant


class Deciding(NamedTuple):
    """Functions of one file, and the tests that have to notice what is wrong in them."""

    path: str
    functions: tuple[str, ...]
    tests: tuple[str, ...]


PATHS: Final = (
    Deciding(
        "pagecheck/plan.py",
        ("page_runs", "make_block", "common_page_size"),
        ("tests/unit/test_plan.py",),
    ),
    Deciding(
        "pagecheck/coordinator/walk.py",
        ("stretches", "_gathered"),
        ("tests/unit/test_walk.py", "tests/processes/test_fragmented.py"),
    ),
    Deciding(
        "pagecheck/coordinator/scan.py",
        ("forget_past_end", "forget_exchanged", "forget_unwritten", "_may_write"),
        (
            "tests/unit/test_scan_settle.py",
            "tests/processes/test_changing_files.py",
            "tests/processes/test_private_changes.py",
            "tests/processes/test_sink_failures.py",
        ),
    ),
    Deciding(
        "pagecheck/coordinator/check.py",
        ("_finish", "_forget_past_end"),
        (
            "tests/processes/test_stop.py::test_a_check_that_is_interrupted_reaches_no_later_one",
            "tests/processes/test_shortages.py::"
            "test_a_check_that_met_a_shortage_is_answered_by_another_channel",
            "tests/processes/test_changing_files.py",
            "tests/engines/test_engine.py",
        ),
    ),
    Deciding(
        "pagecheck/coordinator/select.py",
        ("_publish", "window"),
        ("tests/processes/test_selection.py",),
    ),
    Deciding(
        "pagecheck/shm/extents.py",
        ("by_seeking", "_seek", "by_map", "written"),
        ("tests/unit/test_shm_extents.py",),
    ),
    Deciding(
        "pagecheck/shm/bitmaps.py",
        ("counts", "forget_from"),
        ("tests/unit/test_shm_bitmaps.py",),
    ),
    Deciding(
        "pagecheck/vmm/find/private.py",
        ("_meaning", "arrives", "_is_continued", "_has_layout"),
        ("tests/unit/test_vmm_private.py",),
    ),
    Deciding(
        "pagecheck/snapshot/copying.py",
        ("became_zero", "normal_bytes", "_both"),
        ("tests/snapshot/test_copying.py",),
    ),
    Deciding(
        "pagecheck/snapshot/verify.py",
        ("require_files", "_small", "_bitmap", "_ram", "_require_same", "look", "require"),
        ("tests/unit/test_snapshot_verify.py", "tests/unit/test_snapshot_new_layout.py"),
    ),
    Deciding(
        "pagecheck/snapshot/ram_files.py",
        ("data_of", "_not_marked", "_read_full"),
        ("tests/unit/test_snapshot_verify.py", "tests/unit/test_snapshot_checksums.py"),
    ),
    Deciding(
        "pagecheck/snapshot/punch_vm.py",
        ("zero_runs", "overlaps", "requests"),
        ("tests/unit/test_snapshot_punch.py",),
    ),
)

_COMPARED: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
}
_CALCULATED: Final[dict[type[ast.operator], str]] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.FloorDiv: "*",
    ast.Mod: "*",
}


def python_mutants() -> Iterator[Mutant]:
    """All of them, in the order of `PATHS`."""
    for deciding in PATHS:
        source = (ROOT / deciding.path).read_text()
        found = set()
        made = set()  # a function inside another is met twice
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and node.name in deciding.functions:
                found.add(node.name)
                for mutant in _of_function(deciding, source, node):
                    if mutant.new not in made:
                        made.add(mutant.new)
                        yield mutant
        if found != set(deciding.functions):
            raise ValueError(f"{deciding.path}: no {set(deciding.functions) - found}")


def _of_function(deciding: Deciding, source: str, function: ast.FunctionDef) -> Iterator[Mutant]:
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    for statement in function.body[has_docstring:]:
        for node in _without_annotations(statement):
            for old, new in _changes(source, node):
                yield _mutant(deciding, source, function.name, old, new)


def _without_annotations(statement: ast.AST) -> Iterator[ast.AST]:
    yield statement
    for name, value in ast.iter_fields(statement):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.AST) and name not in ("annotation", "returns"):
                yield from _without_annotations(each)


def _changes(source: str, node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """What is changed in a node, and into what."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in _COMPARED:
            operands = _text(source, left), _text(source, right)
            yield node, f"({operands[0]} {_COMPARED[type(operator)]} {operands[1]})"
        case ast.BoolOp(operator, values):
            word = " or " if isinstance(operator, ast.And) else " and "
            yield node, f"({word.join(f'({_text(source, each)})' for each in values)})"
        case ast.UnaryOp(ast.Not(), operand):
            yield node, f"({_text(source, operand)})"
        case ast.BinOp(left, operator, right) if type(operator) in _CALCULATED:
            word = _CALCULATED[type(operator)]
            yield node, f"({_text(source, left)} {word} {_text(source, right)})"
        case ast.If(test) | ast.While(test) | ast.IfExp(test) if not isinstance(test, ast.Compare):
            yield test, f"(not ({_text(source, test)}))"
        case ast.Constant(bool() as value):
            yield node, str(not value)
        case ast.Constant(int() as value):
            yield node, str(value + 1)
        case ast.Expr(ast.Call()):
            yield node, "pass"
        case ast.Continue():
            yield node, "break"


def _mutant(deciding: Deciding, source: str, function: str, old: ast.AST, new: str) -> Mutant:
    text = _text(source, old)
    lines = source.splitlines(keepends=True)
    assert isinstance(old, ast.expr | ast.stmt)
    assert old.end_lineno is not None
    start = sum(len(line.encode()) for line in lines[: old.lineno - 1]) + old.col_offset
    end = start + len(text.encode())
    whole = source.encode()
    changed = (whole[:start] + new.encode() + whole[end:]).decode()
    short = " ".join(text.split())[:60]
    line = lines[old.lineno - 1].strip()[:60]
    name = f"{deciding.path}:{old.lineno}: {function}: {line}: {short} -> {' '.join(new.split())}"
    return Mutant(name, deciding.path, source, changed, deciding.tests)


def _text(source: str, node: ast.AST) -> str:
    text = ast.get_source_segment(source, node)
    assert text is not None
    return text
