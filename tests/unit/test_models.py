"""The models' page, the models and the tool name the same mutants, and code that there is."""

import re
from pathlib import Path

from tools.check_models import CORRECT, MODEL, MUTANTS

ROOT = Path(__file__).parents[2]
PAGE = (MODEL.parent / "README.md").read_text()
FOLDERS = ("pagecheck/native/core", "pagecheck/include")
SOURCES = {path.name: path.read_text() for each in FOLDERS for path in (ROOT / each).glob("*.[ch]")}


def test_functions_on_the_page_are_where_it_says() -> None:
    (table,) = re.findall(r"## What stands for what\n(.*?)\n\n[^|\n]", PAGE, re.DOTALL)
    cells = [row.split("|")[2] for row in table.strip().split("\n")[2:]]
    named = [each for cell in cells for each in _functions_and_files(cell)]
    assert len(named) >= 13
    missing = [each for each in named if not _is_defined(each[0], SOURCES[each[1]])]
    assert missing == []


def _functions_and_files(cell: str) -> list[tuple[str, str]]:
    """Each function with the C file that is named behind it."""
    found: list[tuple[str, str]] = []
    waiting: list[str] = []
    for name in re.findall(r"`([\w/.]+)`", cell):
        if "." in name:
            found += [(function, name) for function in waiting]
            waiting = []
        else:
            waiting.append(name)
    assert not waiting
    return found


def _is_defined(function: str, text: str) -> bool:
    return re.search(rf"^[\w *]*\b{function}\([^;]*?\)\n\{{", text, re.MULTILINE) is not None


def test_functions_named_in_the_model_are_there() -> None:
    named = set(re.findall(r"\b(?:pc|pgck|pagecheck)_\w+\b(?!\.)", MODEL.read_text()))
    assert len(named) >= 6
    defined = "\n".join(SOURCES.values())
    assert [each for each in named if not _is_defined(each, defined)] == []


def test_files_named_on_the_page_are_there() -> None:
    named = set(re.findall(r"`((?:tests|coordinator)/[\w/.]+)`", PAGE))
    places = [
        ROOT / name if name.startswith("tests") else ROOT / "pagecheck" / name for name in named
    ]
    assert places
    assert [path for path in places if not path.exists()] == []


def test_page_model_and_tool_have_the_same_mutants() -> None:
    table = PAGE.split("## Mutants")[1].split("\n## ")[0]
    text = MODEL.read_text()
    assert set(re.findall(r"`([A-Z_]+)`", table)) == set(MUTANTS)
    assert set(re.findall(r"#define M_(\w+) 0", text)) == set(MUTANTS)
    unused = [name for name in MUTANTS if text.count(f"M_{name}") < 3]  # two are its default
    assert unused == []


def test_every_flag_is_one_of_the_model() -> None:
    flags = {
        flag.split("=")[0] for flags in [*CORRECT.values(), *MUTANTS.values()] for flag in flags
    }
    text = MODEL.read_text()
    assert [flag for flag in flags if f"#ifndef {flag}\n" not in text] == []
