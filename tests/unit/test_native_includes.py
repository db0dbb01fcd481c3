"""The C core's files include what is below them: no circle, and nothing of the floors above."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "pagecheck" / "native"
INCLUDE = re.compile(r'^#include "(?:[./\w]*/)?([\w.]+)"', re.MULTILINE)

# Folder of native/ -> the folders that its files may include from.
MAY_INCLUDE = {"model": {"model"}, "core": {"core", "model"}, "python": {"python", "core", "model"}}


def _unit(name: str) -> str:
    """A .c file and the header of its name are one."""
    return Path(name).stem


def _includes() -> dict[str, set[str]]:
    """Unit -> those that it includes."""
    own = {path.name: path for path in NATIVE.glob("*/*.[ch]")}
    below: dict[str, set[str]] = {}
    for name, path in own.items():
        found = {include for include in INCLUDE.findall(path.read_text()) if include in own}
        below.setdefault(_unit(name), set()).update(map(_unit, found))
    return {unit: units - {unit} for unit, units in below.items()}


def test_no_circle() -> None:
    try:
        list(TopologicalSorter(_includes()).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_folders_include_downwards() -> None:
    folder = {_unit(path.name): path.parent.name for path in NATIVE.glob("*/*.[ch]")}
    upwards = [
        f"{unit} -> {other}"
        for unit, others in _includes().items()
        for other in others
        if folder[other] not in MAY_INCLUDE[folder[unit]]
    ]
    assert upwards == []


def test_block_knows_no_engine() -> None:
    """A block is handed the engine that decides beside the CPU, and its memory, as functions."""
    below = _includes()
    reached, left = set(), ["pc_block"]
    while left:
        unit = left.pop()
        if unit not in reached:
            reached.add(unit)
            left.extend(below[unit])
    assert not {unit for unit in reached if unit.startswith(("pc_dsa", "pc_portal", "pc_file"))}
