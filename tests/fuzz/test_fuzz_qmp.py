"""QMP answers with pieces missing, of other types, twice: the peer's fault, and never ours."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import pagecheck
from pagecheck.errors import PagecheckError
from tests.support.processes import living
from tests.support.qmp import fake_qemu

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20
MAP = """FlatView #0
 AS "memory", root: system
  0000000000000000-0000000000ffffff (prio 0, ram): mem0
"""
KEYS = ("id", "size", "share", "status", "data", "memdev", "ram", "total", "running")
ODD: tuple[Any, ...] = (None, True, 0, -1, MIB, 1 << 63, 10**25, 1.5, "", "x\x1b[2J\ud800", "mem0")


def right(path: Path) -> dict[str, Any]:
    """Answers that fit each other."""
    dimm = {"id": "d", "memdev": "/objects/mem0", "size": 16 * MIB}
    return {
        "query-memdev": [{"id": "mem0", "size": 16 * MIB, "share": True}],
        "query-memory-devices": [{"type": "dimm", "data": dimm}],
        "query-status": {"status": "running", "running": True},
        "query-migrate": {"status": "completed", "ram": {"total": 5}},
        "info": MAP,
        "gpa2hva": "Host virtual address for 0x0 (mem0) is 0x7f0000000000\r\n",
        "qom-get": str(path),
    }


def odd(chance: random.Random, depth: int = 0) -> Any:
    if depth > 2 or chance.random() < 0.7:
        return chance.choice(ODD)
    if chance.random() < 0.5:
        return [odd(chance, depth + 1) for _ in range(chance.randrange(3))]
    return {chance.choice(KEYS): odd(chance, depth + 1) for _ in range(chance.randrange(4))}


def spoiled(chance: random.Random, value: Any) -> Any:
    if chance.random() < 0.25:
        return odd(chance)
    if isinstance(value, dict):
        kept = {name: each for name, each in value.items() if chance.random() < 0.9}
        return {name: spoiled(chance, each) for name, each in kept.items()}
    if isinstance(value, list):
        return [spoiled(chance, each) for each in value] * chance.choice([0, 1, 1, 1, 2])
    if isinstance(value, str):
        at = chance.randrange(len(value) + 1)
        more = chance.choice(["\x00", "f" * 40, "-", "\n", "@", " (", ""])
        return value[:at] + more + value[at + chance.randrange(3) :]
    return value


def human(answers: dict[str, Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda arguments: answers[str(arguments["command-line"]).split()[0]]


def always(value: Any) -> Callable[[object], Any]:
    return lambda _arguments: value


@pytest.fixture(scope="module", autouse=True)
def watchdogs_gone() -> Iterator[None]:
    """A watchdog that cannot make out whether its VM runs stays, and ends some seconds after it."""
    earlier = set(psutil.Process().children())  # the guest of other tests, where these run too
    yield
    children = set(psutil.Process().children()) - earlier
    _gone, left = psutil.wait_procs(children, timeout=60)
    assert living(left) == []


@pytest.mark.long(but="2")
@pytest.mark.parametrize("seed", range(30))
def test_spoiled_answers(tmp_path: Path, shm_folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    file = shm_folder / "ram"
    file.touch()
    os.truncate(file, 16 * MIB)
    plain = right(file)
    answers = {
        name: spoiled(chance, value) if chance.random() < 0.4 else value
        for name, value in plain.items()
    }
    with fake_qemu(tmp_path / "qmp") as qemu:
        for name in ("query-memdev", "query-memory-devices", "query-migrate", "qom-get"):
            qemu.answers[name] = always(answers[name])
        if answers["query-status"] != plain["query-status"]:
            qemu.answers["query-status"] = always(answers["query-status"])
        qemu.answers["human-monitor-command"] = human(answers)
        caught: PagecheckError | None = None
        try:
            pagecheck.scan(
                f"qmp:{qemu.path}", pause=True, trust_path=True, engine="none", channels=1
            )
        except PagecheckError as error:
            caught = error
        assert caught is None or caught.exit_code in (2, 3), (caught, answers)
        assert qemu.status == "running"
