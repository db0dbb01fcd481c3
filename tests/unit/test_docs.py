"""What the pages refer to is there, and what a newcomer needs is on them."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("pagecheck/**/*.md")])
DESIGN = ROOT / "docs/design.md"
IGNORED = {".git", ".venv", "build", "dist"}


def files(*patterns: str) -> list[Path]:
    """Files of the tree, whether or not it is a git checkout."""
    found = [path for pattern in patterns for path in ROOT.rglob(pattern)]
    return [path for path in found if not IGNORED & set(path.relative_to(ROOT).parts)]


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
