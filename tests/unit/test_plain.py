"""Ordinary command lines are read as click reads them; all others are left to it."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck import oneshot
from pagecheck.cli import plain, scan_options
from pagecheck.cli.clone import clone
from pagecheck.cli.options import ENGINE
from pagecheck.cli.punch import punch
from pagecheck.cli.restore import restore
from pagecheck.cli.scan import scan
from pagecheck.snapshot.clone import Clones
from pagecheck.snapshot.punch import punch as punch_call
from pagecheck.snapshot.restore import Restored

# Rare, and of scans that take longer than click does.
SCAN_LEFT = {"--wq"} | {
    option.opts[0] for option in (*scan_options.VM, *scan_options.MAPPINGS, *scan_options.VIA)
}
LEFT_TO_CLICK: dict[str, set[str]] = {
    "scan": SCAN_LEFT,
    "punch": {"--channels", "--via", "--via-uid"} | {option.opts[0] for option in ENGINE},
    "restore": set(),
    "clone": set(),
}
CLICKS = {"scan": scan, "punch": punch, "restore": restore, "clone": clone}
CALLS = {"scan": oneshot.scan, "punch": punch_call, "restore": Restored, "clone": Clones}
PRINTED = {"ranges", "as_json", "quiet", "verbose"}
NEEDED = {"scan": [], "punch": [], "restore": ["--ram", "r"], "clone": ["-n", "2"]}
NAMES = sorted(CLICKS)


def by_click(words: list[str], name: str = "scan") -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """What click makes of it: the arguments, and every option; None: it refuses it."""
    try:
        with CLICKS[name].make_context(name, list(words)) as context:
            params = dict(context.params)
    except (click.ClickException, click.exceptions.Exit):
        return None
    arguments = [p.name for p in CLICKS[name].params if isinstance(p, click.Argument)]
    return tuple(params.pop(str(each)) for each in arguments), params


def defaults(name: str) -> dict[str, Any]:
    found = by_click(["x", *NEEDED[name]], name)
    assert found is not None
    return {option: value for option, value in found[1].items() if option not in ("ram", "count")}


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_read_here_or_left_to_click_on_purpose(name: str) -> None:
    declared = {
        opt
        for param in CLICKS[name].params
        if isinstance(param, click.Option)
        for opt in param.opts
    }
    command = plain.COMMANDS[name]
    known = command.flags | command.values.keys()
    assert known | LEFT_TO_CLICK[name] == declared - {"--help", "-h"}
    assert known & LEFT_TO_CLICK[name] == set()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_given_has_clicks_default(name: str) -> None:
    called = {
        each: parameter.default
        for each, parameter in inspect.signature(CALLS[name]).parameters.items()
    }
    shown = {each: value for each, value in defaults(name).items() if each in PRINTED}
    assert shown == dict.fromkeys(shown, False)
    left = {"via", "via_uid", "explain", "address_range", "execute", "paused", *PRINTED}
    given = {n: v for n, v in defaults(name).items() if n not in left}
    assert given == {each: called[each] for each in given}


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
        "overlay",
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


def options_of(name: str) -> list[str]:
    command = plain.COMMANDS[name]
    odd = {"-h", "--help", "-x", "--j", "--", "-n=2", "-n2"}
    return sorted(command.flags | command.values.keys() | LEFT_TO_CLICK[name] | odd)


def agree(words: list[str], name: str = "scan") -> bool:
    """Asserts that they agree.

    Returns:
        Whether it was an ordinary command line.
    """
    read = plain.read_command(plain.COMMANDS[name], words)
    if read is None:
        return False
    theirs = by_click(words, name)
    assert theirs is not None, words
    assert theirs[0] == read[0]
    ours = {**defaults(name), **read[1]}
    assert theirs[1] == ours
    assert {each: type(value) for each, value in theirs[1].items()} == {
        each: type(value) for each, value in ours.items()
    }
    return True


@pytest.mark.parametrize("name", NAMES)
def test_every_option_with_every_value(name: str) -> None:
    ordinary = set()
    more = NEEDED[name]
    for option, value in itertools.product(options_of(name), VALUES):
        need = [] if option in (*more, "--count") else more
        for words in ([option, value, "f"], [f"{option}={value}", "f"], ["f", option, value]):
            if agree([*need, *words], name):
                ordinary.add(option)
    assert ordinary >= plain.COMMANDS[name].values.keys()  # each has values that are


@given(st.data())
def test_any_words(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    known = st.sampled_from([*options_of(name), *VALUES, "f", "/dev/shm/vm1", *NEEDED[name]])
    agree(data.draw(st.lists(known, max_size=8)), name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("punch", ["guest.ram", "--json", "--page-size", "2M"]),
        ("restore", ["d", "--ram", "shm:/vm1", "--exec", "--", "qemu-system-x86_64", "-m", "1G"]),
        ("restore", ["d", "--ram=a=b", "--onto", "--max-rate", "5M"]),
        ("clone", ["d", "-n", "4", "--share", "net0", "--", "qemu", "--", "-n", "7"]),
        ("clone", ["d", "--count=4"]),
    ],
)
def test_these_of_others_are_ordinary(name: str, words: list[str]) -> None:
    assert agree(words, name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("restore", ["d"]),
        ("restore", ["d", "--ram", "a=b", "--ram", "c=d"]),
        ("restore", ["d", "--ram", "r", "qemu-system-x86_64"]),
        ("clone", ["d", "-n=4"]),
        ("clone", ["d", "-n", "4", "--count", "4"]),
        ("punch", ["d", "--", "e"]),
    ],
)
def test_these_of_others_are_not(name: str, words: list[str]) -> None:
    assert plain.read_command(plain.COMMANDS[name], words) is None


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
    assert plain.read_command(plain.COMMANDS["scan"], words) is None
