"""A real QEMU whose monitor fails at some message of a save or a scan: an answer comes late, twice,
with nothing in it or not at all, or the connection ends.

The VM runs again, and there is a whole snapshot or none; what failed is one line.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import pagecheck
from pagecheck.errors import PagecheckError
from tests.support.faults import PEER_FAULTS, PeerFault
from tests.support.qmp import in_watchdog
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu

pytestmark = [pytest.mark.timeout(3600), pytest.mark.usefixtures("clean")]

ANSWER_S: Final = 1.0  # a late answer comes after this
ABANDON_S: Final = 3.0
MESSAGES: Final = 60
SOON_S: Final = 30.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of the watchdog, which alone talks to QEMU."""
    waits = f"m.COMMAND_S, m.ABANDON_S = {ANSWER_S}, {ABANDON_S}"
    in_watchdog(monkeypatch, f"import pagecheck.vmm.hold.monitor as m; {waits}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rows = [(do, how) for do in (save, scan) for how in PEER_FAULTS]
    if not metafunc.config.getoption("--worlds"):
        rows = [row for row in rows if row[0] is save]
    metafunc.parametrize(("do", "how"), rows)


def save(qemu: BareQemu, folder: Path) -> None:
    """A save that ends: well, or with one line."""
    failed = ""
    try:
        pagecheck.save(f"qmp:{qemu.socket}", folder / "snap", channels=1, max_pause=3)
    except PagecheckError as error:
        failed = str(error)
        assert "\n" not in failed
    wait_for(lambda: qemu.status() == "running", f"the VM runs again: {failed}", SOON_S)
    assert failed or (folder / "snap").exists()
    if (folder / "snap").exists():
        pagecheck.verify(folder / "snap")
        shutil.rmtree(folder / "snap")
    assert not list(folder.iterdir())


def scan(qemu: BareQemu, _folder: Path) -> None:
    failed = ""
    try:
        report = pagecheck.scan(f"qmp:{qemu.socket}", pause=True, channels=1, max_pause=3)
        assert (
            report.total.pages == report.total.zero + report.total.normal + report.total.undecided
        )
    except PagecheckError as error:
        failed = str(error)
        assert "\n" not in failed
    wait_for(lambda: qemu.status() == "running", f"the VM runs again: {failed}", SOON_S)


@pytest.mark.long(but="save-lost")
def test_any_message(
    do: Callable[[BareQemu, Path], None], how: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Once, or --worlds N times."""
    dice = random.Random(f"{how} {request.config.getoption('--seed')}")
    most, left = MESSAGES, request.config.getoption("--worlds") or 1
    (tmp_path / "out").mkdir()
    while left:
        fault = PeerFault(tmp_path / "fault", dice.randrange(most), how)
        with bare_qemu(size="64M", environment=fault.environment()) as qemu:
            try:
                do(qemu, tmp_path / "out")
            except BaseException as error:
                error.add_note(f"message {fault.at} {how}")
                raise
        if fault.happened():
            left -= 1
        else:
            most = max(fault.at, 1)
