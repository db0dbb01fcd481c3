"""What clients keep of their answers is charged to the service, and bounded."""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import LimitError, ResourceError
from pagecheck.native import _native
from pagecheck.service import answers
from pagecheck.service.answers import OVERHEAD_BYTES, Answers, default_memory, usable_memory
from pagecheck.shm.segments import Memfd
from tests.support.hostile import greeted
from tests.support.rams import PAGE
from tests.support.waiting import wait_for

GIB = 1 << 30
SIZE = 5 * PAGE
COST = SIZE + OVERHEAD_BYTES


@pytest.fixture
def kept() -> Iterator[Answers]:
    made = Answers(10 * COST, 25 * COST)
    yield made
    made.close()


def refer(memory: Memfd, how: str) -> Callable[[], object]:
    """Something that keeps the memory without its descriptor; the result lets go of it."""
    if how == "descriptor":
        fd = os.dup(memory.fd)
    elif how == "O_PATH":
        fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_PATH)
    elif how == "opened again":
        fd = os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY)
    elif how == "mapping":
        return mmap.mmap(memory.fd, 0, prot=mmap.PROT_READ).close
    else:
        ours, theirs = socket.socketpair()
        socket.send_fds(ours, [b"x"], [memory.fd])
        ours.close()
        return theirs.close
    return lambda: os.close(fd)


@pytest.mark.parametrize("how", ["descriptor", "O_PATH", "opened again", "mapping", "on its way"])
def test_an_answer_counts_until_nobody_has_it(kept: Answers, how: str) -> None:
    memory = kept.allocate(1, "answer", SIZE)
    assert kept.bytes_kept() == kept.bytes_kept(1) == COST
    let_go = refer(memory, how)
    memory.close()
    assert kept.bytes_kept() == COST
    let_go()
    gc.collect()
    assert kept.bytes_kept() == kept.bytes_kept(1) == 0


def test_what_is_released_does_not_pile_up_here() -> None:
    kept = Answers(GIB, GIB)
    held = [kept.allocate(1, "answer", 1) for _ in range(100)]
    for _ in range(1000):
        kept.allocate(1, "answer", 1).close()
    assert len(kept._kept) <= 2 * len(held) + answers.LOOK_AT_LEAST
    assert kept.bytes_kept() == 100 * (PAGE + OVERHEAD_BYTES)
    for each in held:
        each.close()
    kept.close()


def test_one_client_is_refused_and_no_other(kept: Answers) -> None:
    held = [kept.allocate("greedy", "answer", SIZE) for _ in range(10)]
    with pytest.raises(LimitError, match=rf"answers of {10 * COST} bytes.*--max-memory"):
        kept.allocate("greedy", "answer", 1)
    held.append(kept.allocate("modest", "answer", SIZE))
    held.pop(0).close()
    held.append(kept.allocate("greedy", "answer", SIZE))
    assert kept.bytes_kept("greedy") == 10 * COST
    for each in held:
        each.close()


def test_all_together_are_bounded(kept: Answers) -> None:
    """Also who comes as another client each time."""
    held = [kept.allocate(n, "answer", SIZE) for n in range(25)]
    with pytest.raises(LimitError, match="by all clients"):
        kept.allocate("next", "answer", SIZE)
    held.pop().close()
    held.append(kept.allocate("next", "answer", SIZE))
    for each in held:
        each.close()


def test_what_was_not_allocated_does_not_count(
    kept: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(28, "no watch left")

    fds = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(_native, "watch_ends_add", fail)
        with pytest.raises(ResourceError, match="max_user_watches"):
            kept.allocate(1, "answer", SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(answers, "Memfd", fail)
        with pytest.raises(OSError, match="no watch"):
            kept.allocate(1, "answer", SIZE)
    kept.close()
    assert kept.bytes_kept() == 0
    assert len(os.listdir("/proc/self/fd")) == fds - 1


def test_more_ends_than_are_told_of(kept: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps fs.inotify.max_queued_events notices; none of them is relied on."""
    monkeypatch.setattr(kept, "_most_each", 1 << 60)
    monkeypatch.setattr(kept, "_most_all", 1 << 60)
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(most // 2 + 100):
        kept.allocate(1, "answer", 1).close()
    assert kept.bytes_kept() == 0


@pytest.mark.parametrize("version", [1, 2])
def test_the_memory_that_may_be_used(tmp_path: Path, version: int) -> None:
    membership = tmp_path / "cgroup"
    root = tmp_path / "memory" if version == 1 else tmp_path
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    (root / "a" / "b").mkdir(parents=True)
    membership.write_text("0::/a/b\n" if version == 2 else "4:memory:/a/b\n0::/\n")
    (root / "a" / name).write_text("max\n" if version == 2 else f"{2**63 - 4096}\n")
    host = usable_memory(str(membership), str(tmp_path))
    assert host == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (root / "a" / name).write_text(f"{1 << 28}\n")
    assert usable_memory(str(membership), str(tmp_path)) == 1 << 28
    (root / "a" / "b" / name).write_text(f"{1 << 27}\n")
    assert usable_memory(str(membership), str(tmp_path)) == 1 << 27
    assert usable_memory(str(tmp_path / "none"), str(tmp_path)) == host


def test_the_defaults_are_of_that() -> None:
    assert default_memory(64 * GIB) == (GIB, 16 * GIB)
    assert default_memory(1 << 29) == (1 << 24, 1 << 27)
    assert default_memory(1 << 20) == (1 << 24, 1 << 24)


def test_kept_answers_end_in_a_limit_error(start_service) -> None:
    service = start_service("--max-memory", "64K")
    ram = os.memfd_create("ram")
    os.ftruncate(ram, 64 * PAGE)
    with greeted(service.path) as greedy, Client(service.path) as modest:
        (block,) = modest.attach(ram)
        greedy.result("attach", {}, [ram])
        held: list[int] = []
        while "return" in (found := greedy.execute("check", {"block": 0}))[0]:
            held += found[1]
        assert found[0]["error"]["class"] == "LimitError"
        assert "--max-memory" in found[0]["error"]["desc"]
        assert len(held) == 8  # a page, and one more for what the kernel keeps of it
        assert modest.stats()["answer_bytes"] == 65536
        assert modest.check([block]).blocks[0].counts.zero == 64
        os.close(held.pop())
        held += greedy.execute("check", {"block": 0})[1]
        for fd in held:
            os.close(fd)
    with Client(service.path) as late:
        wait_for(lambda: late.stats()["answer_bytes"] == 0, "nothing kept")
    os.close(ram)


def test_a_block_that_is_too_large_for_the_answer(start_service) -> None:
    service = start_service("--max-memory", "1M")
    ram = os.memfd_create("sparse")
    os.ftruncate(ram, 90 * GIB)
    with Client(service.path) as client:
        (block,) = client.attach(ram)
        with pytest.raises(LimitError, match="ask for fewer blocks"):
            client.check([block])
    os.close(ram)


@contextlib.contextmanager
def memory_cgroup(most: int) -> Iterator[Path]:
    """A cgroup that may use so much memory, of either version."""
    for membership in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = membership.split(":", 2)
        base = Path("/sys/fs/cgroup/memory" if controllers == "memory" else "/sys/fs/cgroup")
        limit = "memory.limit_in_bytes" if controllers == "memory" else "memory.max"
        made = Path(f"{base}{path}") / f"pctest-{os.getpid()}"
        if controllers not in ("memory", ""):
            continue
        with contextlib.suppress(OSError):
            made.mkdir()
            if (made / limit).exists():
                break
            made.rmdir()
    else:
        pytest.skip("needs a cgroup hierarchy with the memory controller that we may write")
    (made / limit).write_text(str(most))
    try:
        yield made
    finally:
        wait_for(lambda: not (made / "cgroup.procs").read_text(), "the cgroup empty")
        made.rmdir()


@pytest.mark.usefixtures("needs_root")
def test_a_service_with_little_memory_lives(start_service) -> None:
    """One client, 90 GiB without a page, every answer kept."""
    ram = os.memfd_create("sparse")
    os.ftruncate(ram, 90 * GIB)
    with memory_cgroup(1 << 28) as cgroup:
        join = lambda: (cgroup / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
        service = start_service("--max-block-size", "100G", preexec_fn=join)
        with greeted(service.path) as greedy:
            greedy.result("attach", {}, [ram])
            held: list[int] = []
            while "return" in (found := greedy.execute("check", {"block": 0}))[0]:
                held += found[1]
                assert len(held) * 8 << 20 < 1 << 28
            assert found[0]["error"]["class"] == "LimitError"
            assert greedy.result("query-stats")["workers_replaced"] == 0
        for fd in held:
            os.close(fd)
        assert service.stop() == 0
    os.close(ram)
