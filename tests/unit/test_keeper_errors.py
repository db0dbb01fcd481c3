"""Whatever a replacement says of its start reaches the caller as a lost channel."""

import time

import pytest

from pagecheck.clock import Allowance
from pagecheck.coordinator.keeper import WorkerKeeper
from pagecheck.coordinator.outcome import ChannelLost
from pagecheck.coordinator.settings import Settings
from pagecheck.coordinator.worker import WorkerProcess
from pagecheck.errors import EngineError, InternalError, PagecheckError, UsageError
from pagecheck.shm.owner import Owner

FAR_NS = 1 << 62


@pytest.mark.parametrize("error", [EngineError, InternalError, UsageError])
def test_a_replacement_that_cannot_start_loses_the_channel(
    clean: None, monkeypatch: pytest.MonkeyPatch, error: type[PagecheckError]
) -> None:
    owner = Owner()
    settings = Settings("cpu", (), False, None, 4, 64, 0, 10**9)
    keeper = WorkerKeeper(0, owner, settings)
    try:
        keeper.await_ready(Allowance(FAR_NS))
        keeper._process.kill()
        keeper._mark_dead("killed")

        def refuse(_self: WorkerProcess, _kind: str, _deadline_ns: int) -> None:
            raise error("no")

        monkeypatch.setattr(WorkerProcess, "receive_reply", refuse)
        with pytest.raises(ChannelLost, match="no"):
            keeper.forget_detached(FAR_NS)
        assert not keeper.is_alive()
    finally:
        monkeypatch.undo()
        keeper.ask_to_end()
        keeper.close(time.monotonic_ns() + 5 * 10**9, in_use=False)
        owner.close()
