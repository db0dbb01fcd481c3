"""Processes of a service and of its clients, killed while all of them work: the others go on, and
nothing of the dead is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from pagecheck.shm.owner import sweep
from tests.stress.budget import Budget
from tests.support.example import build
from tests.support.hostile import Witness, at_rest, figures
from tests.support.leftovers import ownerless
from tests.support.processes import living, start_program, state_of
from tests.support.service import ServiceProcess, StartService
from tests.support.waiting import wait_for

pytestmark = pytest.mark.long

ROUNDS: Final = 2  # if nothing else is asked for
STALL_S: Final = 0.5
SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)

# Checks on the connection and on a direct channel, without end; anything wrong ends it with a word.
_CLIENT: Final = """
import sys
from pagecheck import Client
from pagecheck.errors import PagecheckError
from tests.support.known_ram import KnownRam
from tests.support.bitmaps import bits
ram = KnownRam(512, seed=5)
with Client(sys.argv[1]) as client:
    (block,) = client.attach(ram.fd)
    channel = client.open_channel()
    print("works", flush=True)
    while True:
        found = client.check([block]).blocks[0]
        assert not (bits(found.zero, ram.pages) & ~ram.zero).any()
        assert not (bits(found.normal, ram.pages) & ram.zero).any()
        try:
            answer = channel.check(block, ram.offsets, deadline=20)
            assert (answer.zero == ram.zero & answer.decided).all()
        except PagecheckError:
            channel = client.open_channel()
"""


@pytest.fixture(scope="module")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example VMM, which looks at each answer itself."""
    return build("gcc", tmp_path_factory.mktemp("example"))


class Clients:
    """One in Python and one in C, both at work."""

    def __init__(self, path: str, c_client: Path) -> None:
        self.python = start_program(_CLIENT.replace("sys.argv[1]", repr(path)))
        self.c = subprocess.Popen(
            [c_client, "--socket", path, "--size", "16M", "--channels", "2", "--loop"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.python.stdout is not None
        assert self.python.stdout.readline() == "works\n"

    def end(self) -> None:
        """Ends those that still run; they were never told anything wrong."""
        self.c.send_signal(signal.SIGCONT)
        self.c.send_signal(signal.SIGTERM)
        out, err = self.c.communicate(timeout=30)
        if self.c.returncode >= 0 and out:
            assert json.loads(out)["wrong"] == 0
        assert self.c.returncode != 1, err
        self.python.kill()
        self.python.communicate(timeout=30)


def _victims(service: ServiceProcess, clients: Clients) -> list[int]:
    return [clients.python.pid, clients.c.pid, *(each.pid for each in service.children())]


def _kill(dice: random.Random, there: list[int]) -> None:
    """One or two of them; what stopped runs on after the time in which it is replaced."""
    number = dice.choice(SIGNALS)
    chosen = dice.sample(there, min(len(there), dice.choice([1, 1, 2])))
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    if number == signal.SIGSTOP:
        time.sleep(2 * STALL_S)  # past the deadline is the test
        for pid in chosen:
            if state_of(pid) == "T":
                os.kill(pid, signal.SIGCONT)


def test_kill_of_clients_and_workers(
    start_service: StartService, c_client: Path, budget: Budget
) -> None:
    """Another client of the same service is served correctly all the time."""
    service = start_service("--engine", "cpu", "--stall", STALL_S)
    descriptors, threads, children = at_rest(service)
    with Witness(service.path) as witness:
        for seed in budget.seeds(ROUNDS):
            dice = random.Random(seed)
            clients = Clients(service.path, c_client)
            time.sleep(dice.uniform(0, 0.2))  # a random moment is the test
            _kill(dice, _victims(service, clients))
            witness.await_rounds(2)
            clients.end()

    def as_before() -> bool:
        now = figures(service)
        return now[:2] == (descriptors, threads) and len(now[2]) == len(children)

    wait_for(as_before, "descriptors, threads and children are as many as before")


def test_kill_of_the_service(start_service: StartService, c_client: Path, budget: Budget) -> None:
    """Its clients learn it, its workers end, and the next one at the same path removes the rest."""
    before = ownerless()
    path = None
    for seed in budget.seeds(ROUNDS):
        dice = random.Random(seed)
        service = start_service("--engine", "cpu", "--stall", STALL_S, path=path)
        path = service.path
        clients = Clients(path, c_client)
        children = service.children()
        time.sleep(dice.uniform(0, 0.1))  # a random moment is the test
        os.kill(dice.choice(children).pid, signal.SIGKILL)
        if dice.random() < 0.7:
            service.kill()
        else:
            assert service.stop() == 0
        wait_for(lambda now=children: not living(now), "its processes gone")
        assert clients.python.wait(30) != 0
        clients.end()
        sweep(0)
        assert not ownerless() - before
