"""The HTML: its data decoded again and compared page by page; its policy; hostile names in it."""

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from pagecheck.model import Region
from pagecheck.picture import packing
from pagecheck.picture.memory import Memory, of_report
from pagecheck.picture.page import html
from pagecheck.picture.states import STATES
from tests.picture.worlds import (
    NORMAL,
    PAGE,
    ZERO,
    States,
    block_of,
    counted,
    report_of,
    runs_of_states,
)

NOTHING = packing.NO_PAGES


class Read(HTMLParser):
    """The texts of scripts and styles, the tags with their attributes, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag in self.raw:
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within in self.raw:
            self.raw[self._within][-1] += data
        else:
            self.text += data

    @property
    def about(self) -> Any:
        """What the script reads."""
        return json.loads(self.raw["script"][0])


def unpacked(runs: dict[str, Any]) -> np.ndarray:
    """Of each position the state of its page, or the counts of its unit."""
    raw = zlib.decompress(base64.b64decode(runs["data"]), -15)
    columns, at = [], 0
    for width in runs["widths"]:
        planes = np.frombuffer(raw[at : at + width * runs["runs"]], np.uint8)
        planes = planes.reshape(width, -1).astype(np.int64)
        columns.append((planes << 8 * np.arange(width)[:, None]).sum(axis=0))
        at += width * runs["runs"]
    assert at == len(raw)
    lengths, *values = columns
    found = values[0] if runs["single"] else np.stack(values, axis=1)
    assert (lengths > 0).all()
    return found.repeat(lengths, axis=0)


def two_blocks(run: int = 40) -> tuple[Memory, list[States]]:
    """A block in two parts, of which one begins within a byte of the bitmap, and another block."""
    states, more = runs_of_states(5000, run=run), runs_of_states(77, seed=2, run=run)
    regions = (Region(0x100000, 1003 * PAGE, 0, 0), Region(1 << 40, 3997 * PAGE, 0, 1003 * PAGE))
    memory = of_report(report_of(block_of(states, "pc.ram", regions), block_of(more, "vram")))
    return memory, [states[:1003], states[1003:], more]


@pytest.mark.parametrize("run", [40, 2])
def test_the_data_has_the_state_of_every_page(run: int) -> None:
    memory, parts = two_blocks(run)
    about = Read(html(memory)).about
    runs = about["runs"]
    assert runs["unit_pages"] == 1
    states = unpacked(runs)
    assert len(states) == runs["end"]
    within = np.zeros(len(states), np.bool_)
    for start, part in zip(runs["starts"], parts, strict=True):
        assert (states[start : start + len(part)] == part).all()
        within[start : start + len(part)] = True
    assert (states[~within] == NOTHING).all()
    assert [span["address"] for span in about["spans"]] == ["0x100000", hex(1 << 40), None]
    assert about["counts"] == counted(np.concatenate(parts), 1 << 20)[0]


@pytest.mark.parametrize("most", [1, 10, 100, 1000])
def test_too_many_runs_become_counts_of_units(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(packing, "RUNS_MAX", most)
    monkeypatch.setattr(packing, "MIXED_RUNS_MAX", most)
    memory, parts = two_blocks(run=2)
    page = html(memory)
    runs = Read(page).about["runs"]
    each = runs["unit_pages"]
    assert each > 1
    assert not runs["single"]
    assert runs["runs"] <= max(most, 2 * len(parts)) + len(parts)
    units = unpacked(runs)
    within = np.zeros(len(units), np.bool_)
    for start, part in zip(runs["starts"], parts, strict=True):
        expected = counted(part, each)
        assert units[start : start + len(expected)].tolist() == expected
        within[start : start + len(expected)] = True
    assert not units[~within].any()
    assert f"({each:,} pages)" in page


def test_a_span_begins_where_a_cell_of_the_overview_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CELLS", 20)
    memory, parts = two_blocks()
    runs = Read(html(memory)).about["runs"]
    assert sum(map(len, parts)) / 4**4 <= 20 < sum(map(len, parts)) / 4**3
    assert all(start % 4**4 == 0 for start in runs["starts"])


def test_the_policy_allows_what_is_there_and_nothing_else() -> None:
    read = Read(html(two_blocks()[0]))
    (policy,) = [a["content"] for t, a in read.tags if "http-equiv" in a]
    digests = {
        kind: [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        for kind, texts in read.raw.items()
    }
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests['style'][0]}'; "
        f"script-src 'sha256-{digests['script'][1]}'; base-uri 'none'; form-action 'none'"
    )
    assert len(read.raw["style"]) == 1
    for tag, attributes in read.tags:
        assert not {"src", "href", "style", "srcset", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
    for text in (*read.raw["script"], *read.raw["style"]):
        assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", text)


def test_hostile_names_stay_texts() -> None:
    name = "</script><script>alert(1)</script><!--&\"'\x1b\udcff@@DATA@@"
    states = runs_of_states(100)
    report = report_of(block_of(states, name), source=name)._replace(notes=(name,))
    text = html(of_report(report))
    assert text.isascii()
    read = Read(text)
    assert len(read.raw["script"]) == 2
    assert read.about["blocks"] == [name.replace("\x1b", "\\x1b").replace("\udcff", "\\udcff")]
    assert read.text.count("</script><script>alert(1)</script><!--&\"'\\x1b\\udcff@@DATA@@") == 3
    assert "<!--" not in text
    assert "alert(1)</script" not in text


def test_the_counts_can_be_read_without_a_script() -> None:
    states = runs_of_states(1000)
    text = html(of_report(report_of(block_of(states))))
    for name, number in zip(STATES, counted(states, 1000)[0], strict=True):
        row = re.search(rf'<tr data-state="{name}">.*?</tr>', text, re.DOTALL)
        assert row is not None
        assert f"<td>{number:,}</td>" in row[0]


@pytest.mark.parametrize(
    ("dark", "layout", "theme", "chosen"),
    [
        (None, "hilbert", None, "hilbert"),
        (True, "rows", "dark", "rows"),
        (False, "rows", "light", "rows"),
    ],
)
def test_it_begins_as_asked(dark: bool | None, layout: Any, theme: str | None, chosen: str) -> None:
    read = Read(html(of_report(report_of(block_of(runs_of_states(9)))), layout=layout, dark=dark))
    (root,) = [a for t, a in read.tags if t == "html"]
    assert root.get("data-theme") == theme
    assert [a["value"] for t, a in read.tags if t == "option" and "selected" in a] == [chosen]


def test_a_large_memory_stays_a_small_file() -> None:
    """As of 4 GiB with a run in every second page."""
    states = np.full(1 << 20, ZERO, np.uint8)
    states[::2] = NORMAL
    random = np.random.default_rng(1)
    states[random.random(len(states)) < 0.3] = NORMAL
    assert len(html(of_report(report_of(block_of(states))))) < 4 << 20
