"""A VM is brought back while the monitor of its QEMU fails at some message, or the command is
killed before some call: it runs, or no process of it is left."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pagecheck
from tests.support import command
from tests.support.faults import COMMAND, Fault, PeerFault
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import bare_qemu
from tools.guest.qmp import Qmp

pytestmark = pytest.mark.timeout(3600)

QUICK: Final = ("twice", "cut", "unsent", "empty", "error")  # the others are waited for
FEW: Final = ("unsent", "error")
MESSAGES: Final = 12
RUNS_S: Final = 3.0  # then what did not fail by then runs
SOON_S: Final = 10.0
QEMU: Final = (
    *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
    *("-accel", "tcg", "-machine", "q35", "-m", "64M"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QEMU whose firmware runs, saved."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs qemu-system-x86_64")
    folder = tmp_path_factory.mktemp("saved") / "snap"
    with bare_qemu(size="64M") as qemu:
        pagecheck.save(f"qmp:{qemu.socket}", folder, channels=1)
    return folder


@pytest.fixture
def ram() -> Iterator[Path]:
    path = Path(f"/dev/shm/pctest-peers-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def brought_back(saved: Path, ram: Path, fault: PeerFault) -> tuple[int | None, str]:
    """The exit code and stderr of a restore; None as the code if the VM ran until it was ended."""
    words = ["restore", "--quiet", "--ram", ram, "--exec", saved, "--", *QEMU]
    env = {**command.environment(), **fault.environment()}
    with command.start(*words, env=env, stdin=subprocess.DEVNULL) as front:
        try:
            front.wait(RUNS_S)
            ran = False
        except subprocess.TimeoutExpired:
            ran = True
            front.send_signal(signal.SIGTERM)
        try:
            _out, err = front.communicate(timeout=60)
        finally:
            front.kill()
    return (None if ran else front.returncode), err


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "how" in metafunc.fixturenames:
        metafunc.parametrize("how", QUICK if metafunc.config.getoption("--worlds") else FEW)


@pytest.mark.long(but="lost")
def test_any_message(
    saved: Path, ram: Path, tmp_path: Path, how: str, pytestconfig: pytest.Config
) -> None:
    """Once, or --worlds N times."""
    dice = random.Random(f"{how} {pytestconfig.getoption('--seed')}")
    most, left = MESSAGES, pytestconfig.getoption("--worlds") or 1
    while left:
        fault = PeerFault(tmp_path / "fault", dice.randrange(most), how)
        code, err = brought_back(saved, ram, fault)
        told = f"message {fault.at} {how}: {code}: {err}"
        wait_for(lambda: not command.tagged_processes(), f"no QEMU left; {told}")
        assert "Traceback" not in err, told
        if code is not None:
            assert code in (2, 3), told
            assert [line for line in err.splitlines() if line.startswith("pagecheck: ")], told
            assert not ram.exists(), told
        with contextlib.suppress(FileNotFoundError):
            ram.unlink()
        if fault.happened():
            left -= 1
        else:
            most = max(fault.at, 1)


def _runs(socket_path: Path) -> bool:
    """Whether a VM runs; False: nobody listens there any more."""
    soon = time.monotonic() + SOON_S
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(socket_path))
            status = Qmp(connection, soon).execute("query-status", {}, soon)["status"]
        except OSError:
            return False
    return bool(status == "running")


@pytest.mark.long(but="clone")
@pytest.mark.parametrize("what", ["restore", "clone"])
def test_killed_before_any_call(
    saved: Path, ram: Path, tmp_path: Path, what: str, pytestconfig: pytest.Config
) -> None:
    """Each QEMU has all of the state, and its VM runs, or it ends. Once, or --worlds N times."""
    dice = random.Random(f"{what} {pytestconfig.getoption('--seed')}")
    qmp = tmp_path / ("q{n}" if what == "clone" else "q")
    words = {
        "restore": ["--ram", ram, "--exec", saved],
        "clone": ["-n", "2", saved],
    }[what]
    left = pytestconfig.getoption("--worlds") or 1
    while left:
        fault = Fault(tmp_path / "fault", COMMAND, int(2 ** dice.uniform(0, 7)), signal.SIGKILL)
        with (tmp_path / "said").open("w") as said:
            front = command.start(
                *(what, "--quiet", *words, "--", *QEMU, "-qmp", f"unix:{qmp},server=on,wait=off"),
                env={**command.environment(), "TMPDIR": str(tmp_path), **fault.environment()},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            try:
                front.wait(SOON_S)
            except subprocess.TimeoutExpired:  # it came to the end without that call
                front.terminate()
                front.wait(60)

        def settled() -> bool:
            there = [each for each in tmp_path.glob("q*") if _runs(each)]
            return len(there) == len(command.tagged_processes())

        try:
            wait_for(settled, f"each QEMU runs or ended: {fault}")
        finally:
            for pid in command.tagged_processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        ram.unlink(missing_ok=True)
        for each in tmp_path.glob("q*"):
            each.unlink()
        left -= fault.happened()
