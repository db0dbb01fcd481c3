"""What the pages refer to is there, and what a newcomer needs is on them."""

import ast
import configparser
import fnmatch
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pagecheck.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("pagecheck/**/*.md")])
DESIGN = ROOT / "docs/design.md"
IGNORED = {".git", ".venv", ".cache", "build", "dist"}


def files(*patterns: str) -> list[Path]:
    """Files of the tree, whether or not it is a git checkout; what others use meanwhile is not
    gone through.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - IGNORED
        found += (Path(folder, name) for each in patterns for name in fnmatch.filter(names, each))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_pages_named_in_code_are_there() -> None:
    code = files("*.py", "*.pyi", "*.c", "*.h", "*.md", "*.service", "*.socket")
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in code
        for name in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text(errors="replace"))
    }
    assert named
    assert [each for each in named if not (ROOT / each[1]).exists()] == []


def test_files_named_in_the_design_are_there() -> None:
    text = DESIGN.read_text()
    known = {path.name for path in files("*.py", "*.c", "*.h", "*.json")}
    named = set(re.findall(r"`([a-z_0-9]+\.(?:py|c|h|json))`", text)) - {"report.json"}
    assert named - known == set()
    paths = set(re.findall(r"`(tests/[\w/.]+\.(?:py|c))`", text))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_each_invariant_names_the_test_that_keeps_it() -> None:
    section = DESIGN.read_text().split("## What always holds")[1].split("\n## ")[0]
    invariants = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    assert len(invariants) >= 7
    without = [text.split("\n")[0] for text in invariants if "Kept by" not in text]
    assert without == []
    for text in invariants:
        kept = text[text.index("Kept by") :]
        paths = re.findall(r"`(tests/[\w/.*]+)`", kept)
        assert paths, text
        assert [path for path in paths if not list(ROOT.glob(path))] == []


def blocks(page: Path) -> list[tuple[str, str]]:
    """What stands behind the opening fence of each block of code, and its text."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[str]:
    """Every command line of pagecheck in a block of the page, without what the shell does."""
    for _, block in blocks(page):
        for line in block.replace("\\\n", " ").split("\n"):
            found = re.match(r"(?:\$ )?((?:[\w~/.-]+/bin/)?pagecheck [^|<>&]*)", line)
            if found is not None:
                yield re.sub(r"\$\(.*?\)", "1", found[1]).rstrip()


def test_commands_on_the_pages_are_understood() -> None:
    seen = 0
    for page in PAGES:
        if page.name == "performance.md":  # tables of what was measured
            continue
        for line in commands(page):
            words = shlex.split(line, comments=True)[1:]
            assert _is_understood(words), f"{page.name}: {line}"
            seen += 1
    assert seen >= 30


def _is_understood(words: list[str]) -> bool:
    """Whether command and options are there, and what they are given is of the right type."""
    if words[0].startswith("-"):
        return words[0] in [name for each in cli.params for name in each.opts]
    try:
        cli.commands[words[0]].make_context(words[0], words[1:])
    except click.exceptions.Exit:
        return True
    except (KeyError, click.ClickException):
        return False
    return True


def test_python_on_the_pages_is_python() -> None:
    written = [
        block
        for page in PAGES
        for kind, block in blocks(page)
        if kind == "python" and page.name != "python-api.md"
    ]
    assert len(written) >= 3
    for block in written:
        ast.parse(block)


def test_the_installation_page_says_what_is_needed() -> None:
    page = (ROOT / "docs/installation.md").read_text()
    needs = (ROOT / "tools/needs").read_text()
    packages = re.findall(r'need "[^"]*" (?:"([^"]*)"|(\S+))$', needs, re.MULTILINE)
    wanted = set(" ".join(map("".join, packages)).split()) - {"python3"}
    assert len(wanted) == 4
    (row,) = (line for line in page.split("\n") if line.startswith("| Debian"))
    assert set(row.split("install ")[-1].strip("`| ").split()) == wanted
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    names = re.findall(r"^[\w.]+", setup["options"]["install_requires"], re.MULTILINE)
    (sentence,) = re.findall(r"pip brings.*?\. ", page, re.DOTALL)
    assert re.findall(r"`([\w.]+)`", sentence) == names


def test_dist_check_can_run_every_block_of_the_installation_page() -> None:
    written = blocks(ROOT / "docs/installation.md")
    shell = [kind.split()[1:] for kind, _ in written if kind.split()[:1] == ["sh"]]
    known = re.findall(r"have\+?=\((\S+)\)", (ROOT / "tools/dist-check").read_text())
    assert len(shell) >= 12
    assert {need for needs in shell for need in needs} == set(known)
    others = [text for kind, text in written if kind.split()[:1] != ["sh"]]
    assert [text for text in others if "systemctl" not in text] == []  # no systemd runs there


def test_every_variable_is_explained() -> None:
    patterns = (
        r"environ(?:\.get\(|\[)\s*\"(PAGECHECK_[A-Z_]+)",
        r"_VARIABLE = \"(PAGECHECK_[A-Z_]+)",
        r"getenv\(\"(PAGECHECK_[A-Z_]+)",
        r"\$\{(PAGECHECK_[A-Z_]+)",
    )
    places = [*files("*.py", "*.c", "*.h"), ROOT / "tools/bounds", ROOT / "tools/dist-check"]
    read = {
        name
        for path in places
        for pattern in patterns
        for name in re.findall(pattern, path.read_text(errors="replace"))
    }
    told = set(re.findall(r"^\| `(PAGECHECK_[A-Z_]+)`", _contributing(), re.MULTILINE))
    assert read == told


def test_every_folder_of_tests_is_explained() -> None:
    folders = {f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if path.is_dir()}
    listed = set(re.findall(r"`(tests/[a-z]+)`", _contributing()))
    assert {folder for folder in folders if "__" not in folder} <= listed


def test_targets_of_make_are_there() -> None:
    targets = set(
        re.findall(r"`make ([a-z-]+)`", _contributing() + (ROOT / "README.md").read_text())
    )
    for target in targets:
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


def _contributing() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text()
