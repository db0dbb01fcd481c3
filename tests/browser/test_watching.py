"""What fails a page in tests of this folder does: each fault is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title></head>
<body><main><h1>A page</h1>{}</main></body></html>"""


def written(folder: Path, body: str) -> Path:
    path = folder / "page.html"
    path.write_text(PAGE.format(body))
    return path


@pytest.mark.parametrize("look", [(360, "light"), (1600, "dark")])
def test_a_page_without_faults(visit, look: tuple[int, str], tmp_path: Path) -> None:
    seen = visit(written(tmp_path, "<button id='go'>Go</button><p tabindex='0'>Text</p>"), *look)
    assert seen.page.evaluate("innerWidth") == look[0]
    assert seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (
        look[1] == "dark"
    )
    assert seen.serious() == []
    assert seen.reached_by_tab() == seen.can_be_used() == ["button#go Go", "p# Text"]
    assert seen.faults() == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.error('broken')</script>", "console: broken"),
        ("<script>console.warn('nearly')</script>", "console: nearly"),
        ("<script>throw new Error('thrown')</script>", "error: thrown"),
        ("<script>Promise.reject(new Error('later'))</script>", "error: later"),
        ("<img alt='' src='http://192.0.2.1/x.png'>", "asked for http://192.0.2.1/x.png"),
        (
            "<script>fetch('https://example.org/x').catch(() => {})</script>",
            "asked for https://example.org/x",
        ),
        ("<script src='other.js'></script>", "asked for file://"),
        ("<link rel='stylesheet' href='//fonts.example/x.css'>", "asked for file://fonts.example"),
        ("<script>new WebSocket('ws://192.0.2.1/')</script>", "asked for ws://192.0.2.1/"),
    ],
    ids=["error", "warning", "thrown", "rejected", "image", "fetch", "file", "style", "socket"],
)
def test_a_fault_is_seen(visit, tmp_path: Path, body: str, fault: str) -> None:
    seen = visit(written(tmp_path, body))
    seen.expected_fault(fault)
    seen.forgive("net::")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<img src='data:image/gif;base64,R0lGODlhAQABAAAAACw='>", "image-alt"),
        ("<p style='color: #bbb'>Text that is hard to see</p>", "color-contrast"),
        ("<button></button>", "button-name"),
        ("<input>", "label"),
    ],
)
def test_what_keeps_people_out_is_seen(visit, tmp_path: Path, body: str, fault: str) -> None:
    (found,) = visit(written(tmp_path, body)).serious()
    assert found.startswith(f"{fault}: ")


def test_a_focus_that_is_not_seen(visit, tmp_path: Path) -> None:
    seen = visit(written(tmp_path, "<button style='outline: none'>Go</button>"))
    with pytest.raises(AssertionError, match="no visible focus: button# Go"):
        seen.reached_by_tab()
