"""A direct channel whose workers are killed while they start."""

from pathlib import Path

import pytest

from pagecheck.coordinator import worker
from pagecheck.coordinator.settings import Settings
from pagecheck.errors import EngineError
from pagecheck.service.direct import DirectChannel
from tests.processes.test_kill import DIE_AT, FIRST_DIES_AT

SETTINGS = Settings("cpu", (), False, None, 4, 128, 0, 10**10)
PATH = "import sys; sys.path.append(sys.argv[1])"


@pytest.mark.parametrize("point", ["main", "start", "Worker"])
def test_one_dies_and_the_next_one_serves(
    clean: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str
) -> None:
    script = FIRST_DIES_AT.format(point=point, mark=str(tmp_path / "died"))
    monkeypatch.setattr(worker.PROGRAM, "code", PATH + script)
    channel = DirectChannel(1, 0, SETTINGS, 4, 128, 0)
    try:
        assert (tmp_path / "died").exists()
        assert (channel.is_gone, channel.engine) == (False, "cpu")
        channel.supervise()
        assert not channel.is_gone
    finally:
        channel.close()


def test_all_of_them_die(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.PROGRAM, "code", PATH + DIE_AT.format(point="start"))
    with pytest.raises(EngineError, match=r"channel 1: worker \d+ was killed by signal 9"):
        DirectChannel(1, 0, SETTINGS, 4, 128, 0)
