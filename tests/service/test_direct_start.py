"""A direct channel whose workers are killed while they start."""

from pathlib import Path

import pytest

from pagecheck.coordinator import worker
from pagecheck.coordinator.settings import Settings
from pagecheck.errors import EngineError
from pagecheck.service.direct import DirectChannel
from tests.support.dying import each_dies_at, first_die_at

SETTINGS = Settings("cpu", (), False, None, 4, 128, 0, 10**10)


@pytest.mark.parametrize("point", ["main", "start", "Worker"])
def test_one_dies_and_the_next_one_serves(
    clean: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str
) -> None:
    monkeypatch.setattr(worker.PROGRAM, "code", first_die_at(point, tmp_path))
    channel = DirectChannel(1, 0, SETTINGS, 4, 128, 0)
    try:
        assert not list(tmp_path.iterdir())
        assert (channel.is_gone, channel.engine) == (False, "cpu")
        channel.supervise()
        assert not channel.is_gone
    finally:
        channel.close()


def test_all_of_them_die(clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.PROGRAM, "code", each_dies_at("start"))
    with pytest.raises(EngineError, match=r"channel 1: worker \d+ was killed by signal 9"):
        DirectChannel(1, 0, SETTINGS, 4, 128, 0)
