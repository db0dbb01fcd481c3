"""Whatever a replacement says of its start reaches the caller as a lost channel."""

import time

import pytest

from pagecheck.clock import Allowance
from pagecheck.coordinator.settings import Settings
from pagecheck.coordinator.supervisor import WorkerSupervisor
from pagecheck.coordinator.worker import ChannelLost, WorkerProcess
from pagecheck.errors import EngineError, InternalError, PagecheckError, UsageError
from pagecheck.shm.owner import Owner

FAR_NS = 1 << 62


@pytest.mark.parametrize("error", [EngineError, InternalError, UsageError])
def test_a_replacement_that_cannot_start_loses_the_channel(
    clean: None, monkeypatch: pytest.MonkeyPatch, error: type[PagecheckError]
) -> None:
    owner = Owner()
    settings = Settings("cpu", (), False, None, 4, 64, 0, 10**9)
    channel = WorkerSupervisor(0, owner, settings)
    try:
        channel.await_ready(Allowance(FAR_NS))
        channel._process.kill()
        channel._mark_dead("killed")

        def refuse(_self: WorkerProcess, _kind: str, _deadline_ns: int) -> None:
            raise error("no")

        monkeypatch.setattr(WorkerProcess, "receive_reply", refuse)
        with pytest.raises(ChannelLost, match="no"):
            channel.forget_detached(FAR_NS)
        assert not channel.is_alive()
    finally:
        monkeypatch.undo()
        channel.ask_to_end()
        channel.close(time.monotonic_ns() + 5 * 10**9, in_use=False)
        owner.close()
