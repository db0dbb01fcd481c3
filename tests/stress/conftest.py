"""What the tests of this folder share: their time, where RAM lies here, what commands work on."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecheck.selftest.examine import examine
from pagecheck.selftest.places import Place, candidates
from tests.stress.budget import TIMEOUT_S, Budget, has_budget, share_s
from tests.stress.victims import Site, site
from tests.support.file_systems import mounted, overlaid
from tests.support.service_fixtures import short_folder, start_service

__all__ = ["short_folder", "start_service"]

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
        found = {place.name: place for place in candidates([])}
        found["tmp"] = examine(found["tmp"])[0] or found["shm"]  # of any kind
        found |= {place.name: place for place in _file_systems(stack, folder)}
        yield found


@pytest.fixture(scope="module")
def there() -> Iterator[Site]:
    with (
        tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as folder,
        site(Path(folder)) as made,
    ):
        yield made


def _file_systems(stack: contextlib.ExitStack, folder: Path) -> Iterator[Place]:
    """Those that can be mounted, and what each of them must be able to do; no test is skipped for
    want of one."""
    on_tmpfs: dict[str, Any] = {"diffs": False}
    kinds: list[tuple[str, str, str, dict[str, Any]]] = [
        ("ext4", "ext4", "", {}),
        ("xfs", "xfs", "", {}),
        ("btrfs", "btrfs", "", {}),
        ("tmpfs-huge", "tmpfs", ",huge=always", on_tmpfs),
        ("tmpfs-within-size", "tmpfs", ",huge=within_size", on_tmpfs),
    ]
    for name, kind, options, lacks in kinds:
        own = folder / name
        own.mkdir()
        with contextlib.suppress(pytest.skip.Exception):
            mount = stack.enter_context(mounted(own, kind, "400M", options=options))
            yield Place(name, folder=str(mount), **lacks)
    with contextlib.suppress(pytest.skip.Exception):
        mount = stack.enter_context(overlaid(folder))
        yield Place("overlay", folder=str(mount), diffs=False, maps=False, saves=False)
