"""Plain English: no name, comment, docstring or message has an idiom that has a standard term.

Text is compared word by word, over the ends of lines and in names too: `give_back`, `giveBack` and
"is given back" all hold what "given? back" looks for.
"""

import bisect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pagecheck

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = Path(pagecheck.__file__).parent

# What is looked for, in lower case and with one blank between words, and the term to use.
INSTEAD: Final = {
    r"(give|gives|given|gave|giving) out": "submit; of memory: allocate",
    r"(give|gives|given|gave|giving) back": "release",
    r"(give|gives|given|gave|giving) up": "abandon",
    r"in hand": "in progress",
    r"st(ood|ands?|anding) still": "make no progress; of a VM or a process: stopped, suspended",
    r"hungry": "need more",
    r"lanes?": "feeder thread",
    r"urgent|patient": "high or low priority",
    r"doubtful": "deprioritised",
    r"keepers?": "supervisor",
    r"holdings": "client resources",
    r"sure": "all decided; certain",
    r"prov(e|es|ed|ing) (itself|its (engine|kernel))": "self-test",
    r"(make|makes|made|making) no sense": "invalid",
    r"(?<!there )(is|are|was|were) no (?!(longer|more (than|room)|faster|such|other|raw)\b)\w+": (
        "is not a; is gone"
    ),
    r"(is|was|were|file|returned) cut short": "truncated",
    r"(throw(s|n|ing)?|threw) away": "discard",
    r"(can|cannot|could|may) be told": "known; reported",
    r"(let|lets|letting) go of": "release",
    r"no excuse": "not an exception",
    r"look(s|ed|ing) after": "supervise",
    r"deaf": "ignore",
    r"rescue[sd]?": "force the resume",
    r"let go": "resume if ours; release",
    r"to be had": "available",
}
# Names in messages between processes and in the JSON, which stay.
KEPT: Final = re.compile(r"stood_still|[`\"]rescue[`\"]")
SOURCES: Final = ("*.py", "*.pyi", "native/**/*.[ch]", "include/*.[ch]")
PAGES: Final = ("[!C]*.md", "CONTRIBUTING.md", "docs/**/*.md", "docs/**/*.pml")
C_BESIDE: Final = ("examples/*.c", "tests/native/*.[ch]")


def words(text: str) -> Iterator[tuple[int, str]]:
    """Every word, in lower case, with the number of its line; of names their parts."""
    for number, line in enumerate(text.split("\n"), 1):
        parts = re.sub(r"([a-z])([A-Z])", r"\1 \2", KEPT.sub("x", line)).replace("_", " ")
        for word in re.findall(r"[a-z0-9']+", parts.lower()):
            yield number, word


def idioms(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, idiom and the term to use instead, for each that is found."""
    found = list(words(text))
    starts = list(itertools.accumulate((len(word) + 1 for _, word in found), initial=0))
    joined = " ".join(word for _, word in found)
    for pattern, term in INSTEAD.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", joined):
            yield found[bisect.bisect_right(starts, match.start()) - 1][0], match[0], term


def sources() -> Iterator[Path]:
    """The package, its C and their comments, the C beside it, and the pages but the changelog."""
    for pattern in SOURCES:
        yield from PACKAGE.rglob(pattern) if "/" not in pattern else PACKAGE.glob(pattern)
    for pattern in (*PAGES, *C_BESIDE):
        yield from ROOT.glob(pattern)


def test_standard_terms() -> None:
    lines = [
        f"{path.relative_to(ROOT)}:{line}: {idiom!r}: {term}"
        for path in sorted(sources())
        for line, idiom, term in idioms(path.read_text())
    ]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\ndef give_back(self): ...", 2),
        ("giveBack()", 1),
        ("# the host stood\n# still for a while", 1),
        ('raise UsageError("the time makes no sense")', 1),
        ("LANES = 8", 1),
        ("/* a queue that is given up */", 1),
    ],
)
def test_an_idiom_is_found(text: str, line: int) -> None:
    assert [found for found, _, _ in idioms(text)] == [line]


@pytest.mark.parametrize("text", ['pause["stood_still"]', "insure, planes", "there is no file"])
def test_other_words_are_left_alone(text: str) -> None:
    assert list(idioms(text)) == []
