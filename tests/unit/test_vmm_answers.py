"""Answers taken apart: what is of the wrong type or out of range is named with its place."""

from __future__ import annotations

from typing import Any

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm.answers import Answer


def answer(value: Any) -> Answer:
    return Answer("qmp:x", "query", value)


def test_what_is_right_is_given() -> None:
    whole = answer([{"id": "ram", "size": 4096, "share": True}])
    (backend,) = whole.items()
    assert backend.member("id").text() == "ram"
    assert backend.member("size").size() == 4096
    assert backend.member("share").flag() is True
    assert backend.optional("more") is None
    assert answer(0).size() == 0
    assert answer((1 << 63) - 1).size() == (1 << 63) - 1


@pytest.mark.parametrize("value", [None, True, -1, 1 << 63, 1.0, float("nan"), "1", [1], {}])
def test_no_number_of_bytes(value: Any) -> None:
    with pytest.raises(PeerError, match=r"^qmp:x: the answer to query: must be a number of bytes"):
        answer(value).size()


@pytest.mark.parametrize("value", [None, 0, "true", []])
def test_no_flag(value: Any) -> None:
    with pytest.raises(PeerError, match="must be true or false"):
        answer(value).flag()


@pytest.mark.parametrize("value", [None, 1, ["a"], {"a": "b"}])
def test_no_text(value: Any) -> None:
    with pytest.raises(PeerError, match="must be a string"):
        answer(value).text()


def test_no_list_and_no_object() -> None:
    with pytest.raises(PeerError, match=r"must be a list, is \{\}"):
        answer({}).items()
    with pytest.raises(PeerError, match=r"must be an object, is \[\]"):
        answer([]).optional("a")
    with pytest.raises(PeerError, match=r"must be an object with 'a', is \{\}"):
        answer({}).member("a")


def test_the_place_is_told() -> None:
    inner = answer({"devices": [{}, {"data": {"size": "32M"}}]}).member("devices").items()[1]
    with pytest.raises(PeerError, match=r'query, devices\[1\]\.data\.size: .* is "32M";'):
        inner.member("data").member("size").size()


def test_what_is_shown_is_short_and_printable() -> None:
    with pytest.raises(PeerError) as caught:
        answer("\x1b[2J\n\u202e" + "x" * 10_000).flag()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
