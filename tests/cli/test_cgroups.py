"""A cgroup with little memory, or little of a CPU: what is answered is right, and what cannot be
answered is one line."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pagecheck.shm.owner import sweep
from tests.support.command import pagecheck
from tests.support.rams import PAGE, sparse_file
from tests.support.waiting import holds_within

PAGES: Final = 8192
NORMAL: Final = 4096


@pytest.fixture
def dense_file(tmp_path: Path) -> Path:
    """32 MiB on disk, every second page with data."""
    return sparse_file(tmp_path / "ram", PAGES, dict.fromkeys(range(0, PAGES, 2), b"x"))


@contextlib.contextmanager
def group(controller: str, first: tuple[str, str], second: tuple[str, str]) -> Iterator[Path]:
    """A cgroup of our own with a limit, given as file and value for cgroup v1 and for v2."""
    for mount, (name, value) in (
        (f"/sys/fs/cgroup/{controller}", first),
        ("/sys/fs/cgroup", second),
    ):
        path = Path(mount) / f"pagecheck-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            path.mkdir()
            try:
                (path / name).write_text(value)
            except OSError:
                path.rmdir()
                continue
            break
    else:
        pytest.skip(f"no cgroup with the {controller} controller can be made here")
    try:
        yield path
    finally:
        holds_within(10, lambda: not (path / "cgroup.procs").read_text())
        path.rmdir()


def entering(path: Path) -> Callable[[], None]:
    return lambda: void((path / "cgroup.procs").write_text(str(os.getpid())))


def void(_value: object) -> None:
    """A `preexec_fn` returns nothing."""


def test_little_of_a_cpu(dense_file: Path) -> None:
    """A worker that seldom may run is not one that makes no progress."""
    limit = ("cpu.cfs_quota_us", "5000"), ("cpu.max", "5000 100000")
    with group("cpu", *limit) as path:
        done = pagecheck(
            *("scan", "--json", "--channels", 2, "--stall", 2, dense_file),
            preexec_fn=entering(path),
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["total"]["normal"] == NORMAL
    assert report["total"]["zero"] == PAGES - NORMAL


@pytest.mark.long
def test_few_descriptors_and_little_of_a_cpu(dense_file: Path) -> None:
    """Workers that are ended while they start, and take their time for it, are no second error."""
    limit = ("cpu.cfs_quota_us", "2000"), ("cpu.max", "2000 100000")
    with group("cpu", *limit) as path:
        enter = entering(path)

        def poor() -> None:
            enter()
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

        done = pagecheck("scan", "--channels", 100, dense_file, preexec_fn=poor)
    assert done.returncode == 4, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize("mib", [4, 24])
@pytest.mark.parametrize("what", ["scan", "save"])
def test_little_memory(dense_file: Path, tmp_path: Path, what: str, mib: int) -> None:
    """The kernel kills whom it likes; a worker is replaced, and the command's own death is told by
    who started it."""
    snap = tmp_path / "snap"
    words = {
        "scan": ["scan", "--json", "--channels", 2, dense_file],
        "save": ["save", "--json", "--channels", 2, dense_file, snap],
    }[what]
    limit = ("memory.limit_in_bytes", f"{mib}M"), ("memory.max", f"{mib}M")
    with group("memory", *limit) as path:
        done = pagecheck(*words, preexec_fn=entering(path))
    if done.returncode < 0:
        sweep(0)  # as the next start does
    assert "Traceback" not in done.stderr
    assert "a bug in pagecheck" not in done.stderr
    if done.returncode == 0:
        report = json.loads(done.stdout)
        if what == "scan":
            assert report["total"]["normal"] == NORMAL
        else:
            assert (snap / report["blocks"][0]["file"]).stat().st_size == PAGES * PAGE
    elif done.returncode > 0:
        assert done.stderr.startswith("pagecheck: ") or done.returncode == 1
    assert snap.exists() <= (done.returncode in (0, -9))
