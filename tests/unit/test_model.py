"""Blocks and counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.model import Counts, RamBlock

NAMES = ["pages", "zero", "hole", "normal", "undecided", "unchanged", "swapped"]

counts = st.builds(Counts, *[st.integers(0, 1 << 40)] * len(NAMES))


def test_counts_have_the_names_of_the_json() -> None:
    assert list(Counts()._asdict()) == NAMES
    assert set(Counts()) == {0}


@given(st.lists(counts, max_size=5))
def test_counts_add_up_field_by_field(several: list[Counts]) -> None:
    total = Counts.sum(several)
    for name in NAMES:
        assert getattr(total, name) == sum(getattr(each, name) for each in several)


def test_block_pages() -> None:
    assert RamBlock("b", 1 << 21, 1 << 16).pages == 32
    assert RamBlock("b", 4096, 4096).start == 0


@pytest.mark.parametrize("value", [RamBlock("b", 4096, 4096), Counts()])
def test_values_are_frozen(value: object) -> None:
    with pytest.raises(AttributeError):
        value.pages = 1  # type: ignore[attr-defined]
