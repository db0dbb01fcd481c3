"""docs/reliability.md: every test that it names is there, and each mutant fits the code."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tools.mutants.c_mutants import c_mutants
from tools.mutants.python_mutants import python_mutants
from tools.mutants.survivors import SURVIVORS, key
from tools.mutants.values import mutated

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:tests|docs|tools)/[^`\s]+)`", PAGE)))


def files_not_there(tests: Iterable[str]) -> list[str]:
    return [test for test in tests if not (ROOT / test.split("::")[0]).is_file()]


def test_every_promise_names_a_test() -> None:
    section = PAGE.split("## What is promised")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    promises = [row for row in rows if not row.startswith("| **")]
    assert len(promises) > 25
    assert [row for row in promises if "`" not in row.split(" | ")[-1]] == []


@pytest.mark.long
def test_every_test_that_is_named_is_there() -> None:
    assert files_not_there(NAMED) == []
    of_mutants = {test for each in python_mutants() for test in each.tests}
    ids = sorted(name for name in of_mutants.union(NAMED) if "::" in name)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *ids], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1500:]
    for name in ids:
        assert name in done.stdout


def test_commands_that_are_named_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = {word for found in re.findall(r"`make ([a-z -]+)", PAGE) for word in found.split()}
    assert [
        each for each in targets if not re.search(rf"^[\w -]*\b{each}\b.*:", makefile, re.M)
    ] == []


def test_every_mutant_of_the_core_fits_the_code() -> None:
    found = list(c_mutants())
    assert len({each.name for each in found}) == len(found)
    for each in found:
        text = (ROOT / each.path).read_text()
        assert mutated(text, each) != text
        for test in each.tests:
            assert (ROOT / "tests/native" / f"{test.rpartition(':')[2]}.c").is_file(), each.name


@pytest.mark.long
def test_every_python_mutant_compiles_and_survivors_are_of_them() -> None:
    found = list(python_mutants())
    for each in found:
        compile(each.new, each.path, "exec")
        assert files_not_there(each.tests) == []
    assert SURVIVORS.keys() - {key(each.name) for each in (*c_mutants(), *found)} == set()
