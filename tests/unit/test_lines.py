"""JSON by the parts that `json` is made of: the same texts, the same values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.child import lines

WAYS = [(lines.dumps, lines.loads), lines._by_json()]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_texts_and_values_are_those_of_json(value: object) -> None:
    text = json.dumps(value, separators=(",", ":"))
    for dumps, loads in WAYS:
        assert dumps(value) == text
        assert loads(text) == value
        assert loads(f" {text}\r\n") == value


@pytest.mark.parametrize("loads", [loads for _dumps, loads in WAYS])
@pytest.mark.parametrize(
    "text", ["", " ", "{", "[1", '{"a" 1}', "{} {}", "nul", '"\x01"', "\ufeff3"]
)
def test_what_is_not_json(loads: object, text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each says it in its own words
        loads(text)


@pytest.mark.parametrize("dumps", [dumps for dumps, _loads in WAYS])
def test_what_cannot_be_json(dumps: object) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            dumps({"a": [object()]})


def test_this_python_has_the_parts() -> None:
    assert "_by_c" in lines.dumps.__qualname__
