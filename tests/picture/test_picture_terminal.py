"""Pictures in a terminal: what each character stands for, and that they fit."""

import io
import re

import numpy as np
import pytest
from rich.color import Color, ColorSystem
from rich.text import Text

from pagecheck.picture import terminal
from pagecheck.picture.cells import cells_of
from pagecheck.picture.layout import rows
from pagecheck.picture.memory import Memory, of_report
from pagecheck.picture.palette import cell_colour
from pagecheck.picture.states import CHANGES, CONTENT, PAGES
from pagecheck.picture.terminal import HALF, Screen, screen_of, show
from tests.picture.worlds import NORMAL, block_of, report_of, runs_of_states


def memory_of(pages: int, name: str = "ram") -> Memory:
    return of_report(report_of(block_of(runs_of_states(pages), name), source=name))


def map_lines(lines: list[str]) -> list[str]:
    """Those of the map: between the head and the legend."""
    begin = 3 if lines[2].startswith("At the left") else 2
    end = next(n for n, line in enumerate(lines) if re.search(r": [0-9,]+ pages?, ", line))
    return lines[begin:end]


@pytest.mark.parametrize("columns", [20, 40, 80, 132, 200])
@pytest.mark.parametrize("pages", [1, 100, 5000, 1 << 17])
@pytest.mark.parametrize("layout", ["rows", "hilbert"])
@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_it_fits(columns: int, pages: int, layout: str, colours: str | None) -> None:
    lines = list(show(memory_of(pages), Screen(columns, 40, colours, True), layout))
    drawn = [Text.from_ansi(line).plain for line in map_lines(lines)]
    assert drawn
    assert max(map(len, drawn)) <= max(columns, 30)
    assert len(drawn) <= 40


def test_letters_stand_for_cells() -> None:
    memory = memory_of(1000)
    lines = map_lines(list(show(memory, Screen(80, 40, None, True), "rows")))
    cells = cells_of(memory, 64 * 28)
    layout = rows(cells, 64)
    text = ["" for _ in range(layout.height)]
    for y, counts in zip(layout.y, cells.counts.tolist(), strict=True):
        (state,) = np.flatnonzero(counts)
        text[y] += PAGES[state].letter
    assert [line.split(" ", 1)[1] for line in (line.strip() for line in lines)] == text
    assert lines[1].strip().startswith("0x40000 ")


def test_small_letters_are_less_than_half() -> None:
    states = np.zeros(64 * 28 * 16, np.uint8)
    states[5 * 16] = NORMAL
    states[6 * 16 : 6 * 16 + 8] = NORMAL
    states[7 * 16 : 7 * 16 + 9] = NORMAL
    memory = of_report(report_of(block_of(states)))
    first = map_lines(list(show(memory, Screen(80, 40, None, True), "rows")))[0]
    assert first.split()[-1] == "00000nnN" + 56 * "0"


def test_colours_are_those_of_the_cells_above_and_below() -> None:
    memory = memory_of(5000)
    screen = Screen(80, 40, "truecolor", True)
    lines = map_lines(list(show(memory, screen, "rows")))
    cells = cells_of(memory, 64 * 56)
    layout = rows(cells, 64)
    colours = {
        (int(x), int(y)): cell_colour(counts, dark=True)
        for x, y, counts in zip(layout.x, layout.y, cells.counts.tolist(), strict=True)
    }
    for number, line in enumerate(lines):
        text = Text.from_ansi(line)
        begin = text.plain.index(HALF)
        for x, character in enumerate(text.plain[begin:]):
            style = text.get_style_at_offset(_Console(), begin + x)
            found = [c and c.triplet and c.triplet.hex for c in (style.color, style.bgcolor)]
            assert character == HALF
            assert found == [colours.get((x, 2 * number)), colours.get((x, 2 * number + 1))]


class _Console:
    """What `Text.get_style_at_offset` asks for styles by name."""

    def get_style(self, style, **_):
        from rich.style import Style

        return style if isinstance(style, Style) else Style.parse(style)


@pytest.mark.parametrize("states", [PAGES, CHANGES, CONTENT], ids=["pages", "changes", "content"])
@pytest.mark.parametrize("dark", [True, False])
def test_states_differ_with_few_colours(states: tuple, dark: bool) -> None:
    assert len({terminal.NAMED[each.name] for each in states}) == len(states)
    shades = [each.dark if dark else each.light for each in states]
    of_256 = [
        {Color.parse(shade).downgrade(ColorSystem.EIGHT_BIT).number for shade in each}
        for each in shades
    ]
    for number, each in enumerate(of_256):
        for other in of_256[number + 1 :]:
            assert not each & other


class Tty(io.TextIOWrapper):
    """A terminal, as a stream says it is one."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "encoding", "colours"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "utf-8", "truecolor"),
        ({"TERM": "xterm-256color"}, "utf-8", "256"),
        ({"TERM": "xterm"}, "utf-8", "standard"),
        ({"TERM": "dumb"}, "utf-8", None),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, "utf-8", None),
        ({"TERM": "xterm-256color"}, "latin-1", None),
    ],
)
def test_what_the_terminal_can(
    monkeypatch: pytest.MonkeyPatch, environment: dict, encoding: str, colours: str | None
) -> None:
    for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "COLORFGBG", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert screen_of(Tty(encoding)).colours == colours
    assert screen_of(io.StringIO()).colours is None
    assert screen_of(Tty(encoding)).dark
    monkeypatch.setenv("COLORFGBG", "0;15")
    assert not screen_of(Tty(encoding)).dark
    assert screen_of(Tty(encoding), dark=True).dark


@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_hostile_names_do_nothing_to_the_terminal(colours: str | None) -> None:
    name = "\x1b]0;title\x07\x1b[2J\n\u202e"
    for line in show(memory_of(100, name), Screen(80, 40, colours, True), "rows"):
        without = re.sub(r"\x1b\[[0-9;]*m", "", line)
        assert without.isprintable(), line
