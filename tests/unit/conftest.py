"""Fixtures of the unit tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leftovers import names_of, owners_recorded
from tests.support.sysfs_tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An idxd tree without a device."""
    return Tree(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def no_name_stays() -> Iterator[None]:
    """No module of unit tests leaves a name in /dev/shm, whether its tests are `clean` or not."""
    with owners_recorded() as prefixes:
        yield
    assert names_of(prefixes) == []
