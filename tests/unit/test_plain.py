"""Ordinary command lines are read as click reads them; all others are left to it."""

from __future__ import annotations

import inspect
import itertools

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck import oneshot
from pagecheck.cli import plain, scan_options
from pagecheck.cli.scan import scan

# Rare, and of scans that take longer than click does.
LEFT_TO_CLICK = {"--wq"} | {
    option.opts[0] for option in (*scan_options.VM, *scan_options.MAPPINGS, *scan_options.VIA)
}
PRINTED = {"ranges", "as_json", "quiet", "verbose"}


def by_click(words: list[str]) -> tuple[str, dict[str, object]] | None:
    """What click makes of it: the source, and every option; None: it refuses it."""
    try:
        with scan.make_context("scan", list(words)) as context:
            params = dict(context.params)
    except (click.ClickException, click.exceptions.Exit):
        return None
    return params.pop("source"), params


DEFAULTS = by_click(["x"])[1]


def test_every_option_is_read_here_or_left_to_click_on_purpose() -> None:
    declared = {
        opt for param in scan.params if isinstance(param, click.Option) for opt in param.opts
    }
    known = plain.FLAGS | plain.VALUES.keys()
    assert known | LEFT_TO_CLICK == declared - {"--help", "-h"}
    assert known & LEFT_TO_CLICK == set()


def test_what_is_not_given_has_clicks_default() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(oneshot.scan).parameters.items()
    }
    shown = {name: value for name, value in DEFAULTS.items() if name in PRINTED}
    assert shown == dict.fromkeys(PRINTED, False)
    left = {"via", "via_uid", "explain", "address_range", *PRINTED}
    assert {n: v for n, v in DEFAULTS.items() if n not in left} == {
        n: v for n, v in defaults.items() if n not in ("source", "progress", "coordinator")
    }


VALUES = [
    *(
        "0",
        "1",
        "7",
        "4096",
        "4K",
        "2mib",
        "1.5",
        ".5",
        "5.",
        "1e3",
        "inf",
        "nan",
        "-1",
        "+1",
        "1_0",
    ),
    *(
        "",
        " ",
        " 4",
        "auto",
        "cpu",
        "dsa",
        "AUTO",
        "none",
        "full",
        "diff",
        "read",
        "raw",
        "avx2",
        "x",
    ),
    *("", " ", " 4", "-", "--", "--json", "٣", "9" * 12, "0x10", "a=b", "=", "5x", "64K/s"),
]
OPTIONS = sorted(plain.FLAGS | plain.VALUES.keys() | LEFT_TO_CLICK | {"-h", "--help", "-x", "--j"})


def agree(words: list[str]) -> bool:
    """Asserts that they agree.

    Returns:
        Whether it was an ordinary command line.
    """
    read = plain.read_scan(words)
    if read is None:
        return False
    theirs = by_click(words)
    assert theirs is not None, words
    assert theirs[0] == read[0]
    assert theirs[1] == {**DEFAULTS, **read[1]}
    assert {name: type(value) for name, value in theirs[1].items()} == {
        name: type(value) for name, value in {**DEFAULTS, **read[1]}.items()
    }
    return True


def test_every_option_with_every_value() -> None:
    ordinary = set()
    for option, value in itertools.product(OPTIONS, VALUES):
        for words in ([option, value, "f"], [f"{option}={value}", "f"], ["f", option, value]):
            if agree(words):
                ordinary.add(option)
    assert ordinary >= plain.VALUES.keys()  # each has values that are


@given(st.lists(st.sampled_from([*OPTIONS, *VALUES, "f", "/dev/shm/vm1"]), max_size=8))
def test_any_words(words: list[str]) -> None:
    agree(words)


@pytest.mark.parametrize(
    "words",
    [
        ["/dev/shm/vm1"],
        ["--json", "--out", "bitmaps", "/dev/shm/vm1"],
        ["--kind", "diff", "snapshot.diff", "--ranges"],
        ["pid:4711", "-v"],
        ["--quiet", "f", "--page-size=2M", "--deadline", "1.5", "--engine", "cpu"],
    ],
)
def test_these_are_ordinary(words: list[str]) -> None:
    assert agree(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["a", "b"],
        [""],
        ["--", "f"],
        ["f", "--out"],
        ["--ranges", "--json", "f"],
        ["--nice", "1", "--nice", "2", "f"],
        ["--help", "f"],
        ["--via", "s", "f"],
        ["--pause", "qmp:s"],
    ],
)
def test_these_are_not(words: list[str]) -> None:
    assert plain.read_scan(words) is None
