"""Real file systems in loop devices, made for one test and gone after it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = 4096


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60)


def _need(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        pytest.skip(f"needs {' '.join(map(str, done.args[:4]))}: {said}")


@contextlib.contextmanager
def mounted(folder: Path, kind: str, size: str, *make: str, options: str = "") -> Iterator[Path]:
    """A new file system, mounted; skips with a line where that cannot be.

    Args:
        folder: where its image and its mount point are made.
        size: as `truncate` takes it.
        make: options of mkfs.
        options: of the mount, after a comma.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, for a mount")
    at = folder / f"{kind}-mount"
    at.mkdir()
    if kind == "tmpfs":
        _need(_run("mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", str(at)))
    else:
        tool = f"mkfs.{kind}"
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        image = folder / f"{kind}.img"
        _need(_run("truncate", "-s", size, str(image)))
        _need(_run(tool, "-q", *make, str(image)))
        _need(_run("mount", "-o", f"loop{options}", str(image), str(at)))
    try:
        yield at
    finally:
        if _run("umount", str(at)).returncode != 0:
            _run("umount", "-l", str(at))


@contextlib.contextmanager
def overlaid(folder: Path) -> Iterator[Path]:
    """An overlayfs over folders of `folder`, mounted; skips where that cannot be."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a mount")
    parts = {name: folder / f"overlay-{name}" for name in ("lowerdir", "upperdir", "workdir")}
    at = folder / "overlay-mount"
    for each in (*parts.values(), at):
        each.mkdir()
    options = ",".join(f"{name}={path}" for name, path in parts.items())
    _need(_run("mount", "-t", "overlay", "-o", options, "none", str(at)))
    try:
        yield at
    finally:
        if _run("umount", str(at)).returncode != 0:
            _run("umount", "-l", str(at))


def write_page(path: Path, page: int, content: bytes) -> None:
    """Writes one whole page in place."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, content.ljust(PAGE, b"\0"), page * PAGE)
    finally:
        os.close(fd)


def forget(path: Path) -> None:
    """Writes the file back and drops it from the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def preallocate(path: Path, pages: int) -> None:
    """`fallocate -l`."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, pages * PAGE)
    finally:
        os.close(fd)
