"""Each message is written once, in the function that owns its rule."""

import ast
import collections
from collections.abc import Iterator
from pathlib import Path

import pagecheck

PACKAGE = Path(pagecheck.__file__).parent
CHARACTERS = 20  # shorter pieces of text are words rather than messages


def pieces(node: ast.AST) -> Iterator[str]:
    """The literal texts of a message; each value that is filled in is a `{}`."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.JoinedStr):
            parts = [str(p.value) if isinstance(p, ast.Constant) else "{}" for p in inner.values]
            yield "".join(parts)
        elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield inner.value


def said(text: str) -> str:
    """A message without its leading object, which differs from place to place."""
    return text.strip("{}: ")


def raised() -> dict[str, set[str]]:
    """Every literal in a `raise`, with the places that it is written at."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for text in map(said, pieces(node.exc)):
                    if len(text) > CHARACTERS:
                        found[text].add(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    return found


def test_no_two_raises_say_the_same() -> None:
    found = {text: sorted(places) for text, places in raised().items() if len(places) > 1}
    assert found == {}
