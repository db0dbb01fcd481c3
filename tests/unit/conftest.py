"""Fixtures of the unit tests."""

from pathlib import Path

import pytest

from tests.unit.sysfs_tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An idxd tree without a device."""
    return Tree(tmp_path)
