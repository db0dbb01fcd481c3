"""Direct channels whose workers are killed before they know every block."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecheck import Coordinator
from pagecheck.coordinator.settings import Settings
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError
from pagecheck.native import Feed, _native
from pagecheck.service.direct import STARTS_MAX
from pagecheck.service.limits import Limits
from pagecheck.service.service import Service
from tests.support.known_ram import KnownRam
from tests.support.leftovers import open_fds
from tests.support.rams import PAGE

SETTINGS = Settings("cpu", (), False, None, 16, 128, 0, 10**10)
FAR_NS = 1 << 62


@pytest.fixture
def service() -> Iterator[Service]:
    with Coordinator(engine="none") as coordinator:
        served = Service(coordinator, SETTINGS, Limits())
        yield served
        served.ending.set()
        served._supervisor.join()


def _kill_at(
    monkeypatch: pytest.MonkeyPatch, step: str, deaths: int, when: Callable[..., bool]
) -> list[int]:
    """The first workers are killed right before we take that step with them."""
    real: Callable[..., Any] = getattr(WorkerProcess, step)
    dead: list[int] = []

    def dying(worker: WorkerProcess, *given: Any) -> Any:
        if len(dead) < deaths and when(*given):
            dead.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        return real(worker, *given)

    monkeypatch.setattr(WorkerProcess, step, dying)
    return dead


def _ask(feed: Feed, pages: int) -> list[int]:
    """The zero bytes of the first pages of block 3."""
    zero, decided = bytearray(pages), bytearray(pages)
    offsets = b"".join((page * PAGE).to_bytes(8, "little") for page in range(pages))
    feed.begin_offsets(3, 128, offsets, zero, decided)
    feed.more(0, pages)
    assert feed.pump(False, FAR_NS) == _native.PUMP_DONE
    assert all(decided)
    feed.end()
    return list(zero)


@pytest.mark.parametrize(
    ("step", "when"),
    [
        ("open", lambda *_: True),
        ("receive_reply", lambda kind, *_: kind == "ready"),
        ("send", lambda message, *_: "attach" in message),
    ],
    ids=["before open", "before ready", "before attach"],
)
def test_another_worker_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
    service: Service,
    known_ram: KnownRam,
    step: str,
    when: Callable[..., bool],
) -> None:
    with Coordinator(engine="none") as other:
        block = other.attach(f"fd:{known_ram.fd}")
        before = len(open_fds())
        dead = _kill_at(monkeypatch, step, 2, when)
        channel = service.new_channel(7, 16, 128, 0, {3: block})
        feed = Feed(channel.fd, -1)
        assert _ask(feed, 256) == known_ram.zero[:256].tolist()
        assert len(dead) == 2
        assert service.workers_replaced == 2
        assert service.describe(everyone=True)["workers_replaced"] == 2
        assert not channel.is_gone
        feed.close()
        channel.close()
        assert len(open_fds()) == before


def test_it_is_tried_so_often_and_no_more(
    monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    before = len(open_fds())
    dead = _kill_at(monkeypatch, "receive_reply", 99, lambda *_: True)
    with pytest.raises(EngineError, match=r"channel 7: worker \d+ was killed"):
        service.new_channel(7, 16, 128, 0, {})
    assert len(dead) == STARTS_MAX
    assert len(open_fds()) == before


def test_what_the_worker_says_of_itself_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    asked: list[int] = []
    real = WorkerProcess.open

    def count(worker: WorkerProcess, *given: Any) -> None:
        asked.append(worker.pid)
        real(worker, *given)

    monkeypatch.setattr(WorkerProcess, "open", count)
    service._settings = SETTINGS._replace(engine="dsa", wq=("/dev/dsa/wq9.9",))
    with pytest.raises(EngineError, match=r"wq9\.9"):
        service.new_channel(7, 16, 128, 0, {})
    assert len(asked) == 1
