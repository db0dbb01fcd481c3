"""What the tests of this folder share: their time, and the places where RAM lies here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.selftest.examine import examine
from pagecheck.selftest.places import Place, candidates
from tests.stress.budget import TIMEOUT_S, Budget, has_budget, share_s
from tests.support.file_systems import mounted, overlaid

_SHARE = pytest.StashKey[float | None]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = config.stash[_SHARE] = share_s(config, items)
    for item in items:
        if share is not None and has_budget(item):
            item.add_marker(pytest.mark.timeout(share + TIMEOUT_S), append=False)


@pytest.fixture
def budget(pytestconfig: pytest.Config) -> Budget:
    worlds = pytestconfig.getoption("--worlds")
    return Budget(pytestconfig.getoption("--seed"), worlds, pytestconfig.stash[_SHARE])


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    """Every place that can be made here, by name: real file systems too, for root."""
    folder = tmp_path_factory.mktemp("places")
    with contextlib.ExitStack() as stack:
        found = candidates([])
        for name, where in _file_systems(stack, folder):
            found.append(Place(name, folder=str(where)))
        usable = [examine(place)[0] for place in found]
        yield {place.name: place for place in usable if place is not None}


def _file_systems(stack: contextlib.ExitStack, folder: Path) -> Iterator[tuple[str, Path]]:
    """Those that can be mounted; no test is skipped for want of one of them."""
    kinds = [
        ("ext4", "ext4", "400M", ""),
        ("xfs", "xfs", "400M", ""),
        ("btrfs", "btrfs", "400M", ""),
        ("tmpfs-huge", "tmpfs", "400M", ",huge=always"),
        ("tmpfs-advise", "tmpfs", "400M", ",huge=within_size"),
    ]
    for name, kind, size, options in kinds:
        own = folder / name
        own.mkdir()
        with contextlib.suppress(pytest.skip.Exception):
            yield name, stack.enter_context(mounted(own, kind, size, options=options))
    with contextlib.suppress(pytest.skip.Exception):
        yield "overlay", stack.enter_context(overlaid(folder))
