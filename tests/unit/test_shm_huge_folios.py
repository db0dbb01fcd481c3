"""Whether shared memory may hold huge folios, by settings as the kernel shows them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.shm.huge_folios import why_possible


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("ram")
    yield fd
    os.close(fd)


@pytest.fixture
def named(shm_folder: Path) -> Iterator[int]:
    """A file on a tmpfs that is mounted here."""
    fd = os.open(shm_folder / "f", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def settings(folder: Path, everywhere: str | None, **sizes: str) -> str:
    """/sys/kernel/mm as a kernel with these settings shows it."""
    if everywhere is not None:
        (folder / "transparent_hugepage").mkdir()
        chosen = f"always within_size advise [{everywhere}] deny force\n"
        (folder / "transparent_hugepage" / "shmem_enabled").write_text(chosen)
    for size, word in sizes.items():
        one = folder / "transparent_hugepage" / f"hugepages-{size.removeprefix('s')}"
        one.mkdir()
        (one / "enabled").write_text("always [never]\n")
        (one / "shmem_enabled").write_text(f"always inherit [{word}]\n")
    return str(folder)


def table(folder: Path, fd: int, options: str) -> str:
    device = os.fstat(fd).st_dev
    path = folder / "mountinfo"
    where = f"{os.major(device)}:{os.minor(device)}"
    path.write_text(f"30 22 {where} / /ram rw - tmpfs tmpfs rw,size=4k{options}\n")
    return str(path)


def nothing(folder: Path) -> str:
    path = folder / "mountinfo"
    path.write_text("")
    return str(path)


@pytest.mark.parametrize("everywhere", ["never", "deny"])
def test_memfd_without(memfd: int, tmp_path: Path, everywhere: str) -> None:
    mm = settings(tmp_path, everywhere, s2048kB="inherit", s64kB="never")
    assert why_possible(memfd, mm, nothing(tmp_path)) is None


@pytest.mark.parametrize("everywhere", ["always", "within_size", "advise", "force"])
def test_memfd_with(memfd: int, tmp_path: Path, everywhere: str) -> None:
    why = why_possible(memfd, settings(tmp_path, everywhere), nothing(tmp_path))
    assert why is not None
    assert f"shmem_enabled is {everywhere}" in why


@pytest.mark.parametrize("word", ["always", "within_size", "advise"])
def test_memfd_with_one_size(memfd: int, tmp_path: Path, word: str) -> None:
    mm = settings(tmp_path, "never", s16kB="never", s64kB=word)
    why = why_possible(memfd, mm, nothing(tmp_path))
    assert why is not None
    assert f"hugepages-64kB/shmem_enabled is {word}" in why


@pytest.mark.parametrize("options", ["", ",huge=never"])
def test_mount_without(named: int, tmp_path: Path, options: str) -> None:
    mm = settings(tmp_path, "always", s64kB="always")  # of memfds only
    assert why_possible(named, mm, table(tmp_path, named, options)) is None


@pytest.mark.parametrize("word", ["always", "within_size", "advise"])
def test_mount_with(named: int, tmp_path: Path, word: str) -> None:
    why = why_possible(named, settings(tmp_path, "never"), table(tmp_path, named, f",huge={word}"))
    assert why is not None
    assert f"huge={word} (/ram)" in why


def test_forced_on_every_mount(named: int, tmp_path: Path) -> None:
    assert why_possible(named, settings(tmp_path, "force"), table(tmp_path, named, "")) is not None


def test_a_kernel_without_huge_pages(named: int, memfd: int, tmp_path: Path) -> None:
    mm = settings(tmp_path, None)
    assert why_possible(memfd, mm, nothing(tmp_path)) is None
    assert why_possible(named, mm, table(tmp_path, named, "")) is None


def test_what_cannot_be_asked_may_be(memfd: int, named: int, tmp_path: Path) -> None:
    assert why_possible(memfd, str(tmp_path / "missing"), nothing(tmp_path)) is not None
    mm = settings(tmp_path, "never")
    assert why_possible(named, mm, nothing(tmp_path)) is not None  # of another mount namespace
    (tmp_path / "transparent_hugepage" / "shmem_enabled").unlink()
    assert why_possible(memfd, mm, nothing(tmp_path)) is not None
