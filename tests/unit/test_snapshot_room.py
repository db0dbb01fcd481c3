"""Whether what is saved stays in memory, by what the kernel says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecheck.snapshot import room

MIB = 1 << 20


def says(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    available: str = "MemAvailable:    4096 kB",
    group: str = "4:memory:/x\n0::/a/b",
    limits: dict[str, tuple[str, str]] | None = None,
) -> None:
    """What /proc and the control groups say: the limit and the use of each group."""
    (folder / "meminfo").write_text(f"MemTotal:  9000 kB\n{available}\n")
    (folder / "cgroup").write_text(f"{group}\n")
    for name, (most, used) in (limits or {}).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "memory.max").write_text(f"{most}\n")
        (folder / name / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(room, "_MEMORY", str(folder / "meminfo"))
    monkeypatch.setattr(room, "_OWN_GROUP", str(folder / "cgroup"))
    monkeypatch.setattr(room, "_GROUPS", str(folder))


def test_memory_that_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, tmp_path)
    assert room.fits_in_memory([3 * MIB, MIB])
    assert not room.fits_in_memory([3 * MIB, MIB, 1])


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"a/b": ("max", "0")}, 4 * MIB),
        ({"a/b": (str(3 * MIB), str(MIB))}, 2 * MIB),
        ({"a": (str(3 * MIB), str(2 * MIB)), "a/b": ("max", "5")}, MIB),
        ({"a": (str(MIB), str(2 * MIB))}, -MIB),
    ],
)
def test_a_limit_of_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, tuple[str, str]], left: int
) -> None:
    says(monkeypatch, tmp_path, limits=limits)
    assert room.fits_in_memory([left])
    assert not room.fits_in_memory([left + 1])


@pytest.mark.parametrize(
    ("available", "limit"), [("MemFree: 1 kB", "max"), ("MemAvailable: some", "max"), ("", "much")]
)
def test_what_is_not_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: str, limit: str
) -> None:
    given = {"available": available} if available else {}
    says(monkeypatch, tmp_path, limits={"a": (limit, "0")}, **given)
    assert not room.fits_in_memory([0])


def test_what_is_said_here() -> None:
    assert room.fits_in_memory([0])
    assert not room.fits_in_memory([1 << 60])
