"""A short soak and a short load: `python -m tools.soak` does both for as long as one likes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tools.soak.actor import ActorProcess
from tools.soak.load import load
from tools.soak.rest import Rest, growth
from tools.soak.run import soak


@pytest.mark.long
def test_nothing_grows_and_no_answer_is_wrong(tmp_path: Path) -> None:
    done: list[int] = []
    found = soak(1.0, 3, 1, tmp_path, done.append)
    assert found.faults == []
    assert done == [1, 2, 3]
    for window in found.windows:
        assert window.killed == 1
        assert all(each.things for each in window.done), window.done
    assert len(found.table.splitlines()) == 4


@pytest.mark.long
def test_a_full_service_refuses_and_the_others_go_on(tmp_path: Path) -> None:
    found = load(0.5, tmp_path, clients=(1, 3), channels=(1, 3))
    assert found.faults == []
    assert [len(step.done) for step in found.steps] == [1, 3, 1, 3]
    assert all(each.things for step in found.steps for each in step.done)
    client, channel = found.refused
    assert client.startswith("client 33: LimitError: 32 clients are connected")
    assert channel.startswith("channel 17: LimitError: 16 channels are open")


def test_an_actor_that_hangs_is_named_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ActorProcess("scan", "no-socket", tmp_path, 1, 64) as actor:
        monkeypatch.setattr("tools.soak.actor.ANSWER_S", 0.1)
        os.kill(actor.pid, signal.SIGSTOP)
        actor.start(0.1)
        with pytest.raises(RuntimeError, match="the actor scan did not answer"):
            actor.result()
    assert not psutil.pid_exists(actor.pid)


def test_what_grew_is_named() -> None:
    calm = Rest(20000, 8000, 26, 5, 3, 5, 0)
    assert growth([calm] * 9) == []
    leaky = [calm._replace(descriptors=26 + turn) for turn in range(9)]
    assert growth(leaky) == ["descriptors: 26 at first, 34 at the end"]
    fat = [calm._replace(service_kib=20000 + 1000 * turn) for turn in range(9)]
    (line,) = growth(fat)
    assert line.startswith("service_kib: 21000 early, 27000 late")
