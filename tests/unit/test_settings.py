"""CPU quotas of cgroup versions 1 and 2, and the defaults derived from them."""

from pathlib import Path

import pytest

from pagecheck.coordinator import settings
from pagecheck.coordinator.settings import cgroup_quota, default_batch_pages, default_channels

MIB = 1 << 20


def v2(root: Path, tree: dict[str, str], path: str) -> float | None:
    """The quota of a process in cgroup `path` of a version 2 tree."""
    for folder, text in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(text)
    (root / "membership").write_text(f"0::{path}\n")
    return cgroup_quota(str(root / "membership"), str(root))


def v1(root: Path, mount: str, tree: dict[str, tuple[int, int]], path: str) -> float | None:
    """The same in a version 1 tree mounted at `mount`."""
    for folder, (quota, period) in tree.items():
        place = root / mount / folder
        place.mkdir(parents=True, exist_ok=True)
        (place / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (place / "cpu.cfs_period_us").write_text(f"{period}\n")
    (root / "membership").write_text(f"12:memory:/x\n4:cpu,cpuacct:{path}\n1:name=systemd:/\n")
    return cgroup_quota(str(root / "membership"), str(root))


def test_v2_own_quota(tmp_path: Path) -> None:
    assert v2(tmp_path, {"a/b": "150000 100000\n"}, "/a/b") == 1.5


def test_v2_smallest_on_the_way_up(tmp_path: Path) -> None:
    tree = {"a/b": "800000 100000\n", "a": "300000 100000\n", "": "max 100000\n"}
    assert v2(tmp_path, tree, "/a/b") == 3.0


def test_v2_root_of_a_container(tmp_path: Path) -> None:
    assert v2(tmp_path, {"": "50000 100000\n"}, "/") == 0.5


def test_v2_path_that_does_not_exist_below_the_mount(tmp_path: Path) -> None:
    assert v2(tmp_path, {"": "200000 100000\n"}, "/host/only/here") == 2.0


def test_v2_path_above_the_mount(tmp_path: Path) -> None:
    assert v2(tmp_path, {"": "200000 100000\n"}, "/../../other") == 2.0


def test_v2_max_is_no_quota(tmp_path: Path) -> None:
    assert v2(tmp_path, {"a": "max 100000\n"}, "/a") is None


@pytest.mark.parametrize("text", ["", "nonsense", "1 2 3", "100 0", "x 100000"])
def test_v2_unreadable_is_no_quota(tmp_path: Path, text: str) -> None:
    assert v2(tmp_path, {"a": text}, "/a") is None


def test_v2_unified_mount(tmp_path: Path) -> None:
    assert v2(tmp_path, {"unified/a": "400000 100000\n"}, "/a") == 4.0


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1_own_quota(tmp_path: Path, mount: str) -> None:
    assert v1(tmp_path, mount, {"a": (250000, 100000)}, "/a") == 2.5


def test_v1_smallest_on_the_way_up(tmp_path: Path) -> None:
    tree = {"a/b": (900000, 100000), "a": (100000, 50000)}
    assert v1(tmp_path, "cpu", tree, "/a/b") == 2.0


def test_v1_minus_one_is_no_quota(tmp_path: Path) -> None:
    assert v1(tmp_path, "cpu", {"a": (-1, 100000)}, "/a") is None


def test_v1_other_controllers_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "membership").write_text("3:cpuset:/\n4:memory:/\n")
    assert cgroup_quota(str(tmp_path / "membership"), str(tmp_path)) is None


def test_no_membership_file(tmp_path: Path) -> None:
    assert cgroup_quota(str(tmp_path / "none"), str(tmp_path)) is None


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (0.2, 1), (2.1, 3), (64.0, 8)])
def test_usable_cpus(monkeypatch: pytest.MonkeyPatch, quota: float | None, expected: int) -> None:
    monkeypatch.setattr(settings, "cgroup_quota", lambda *_: quota)
    monkeypatch.setattr(settings.os, "sched_getaffinity", lambda _pid: set(range(8)))
    assert settings.usable_cpus() == expected


@pytest.mark.parametrize(
    ("cpus", "data", "expected"),
    [
        (64, None, 16),
        (4, None, 4),
        (64, 0, 1),
        (64, 1, 1),
        (64, 256 * MIB, 1),
        (64, 256 * MIB + 1, 2),
        (64, 1 << 40, 16),
        (2, 1 << 40, 2),
    ],
)
def test_default_channels(
    monkeypatch: pytest.MonkeyPatch, cpus: int, data: int | None, expected: int
) -> None:
    monkeypatch.setattr(settings, "usable_cpus", lambda: cpus)
    assert default_channels(data) == expected


@pytest.mark.parametrize(("page", "pages"), [(4096, 512), (65536, 32), (2 * MIB, 1), (1 << 30, 1)])
def test_default_batch_is_2_mib(page: int, pages: int) -> None:
    assert default_batch_pages(page) == pages
