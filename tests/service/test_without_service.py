"""What a service is not needed for: a snapshot is verified and shown by whom it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import PeerError, SnapshotError, UsageError
from pagecheck.service.remote_punch import punched
from tests.support.command import assert_fails, pagecheck
from tests.support.service import ServiceProcess
from tests.support.snapshots import make_snapshot, some_ram


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    make_snapshot(tmp_path / "one", {"pc.ram": some_ram(64)})
    return tmp_path / "one"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_from_python(service: ServiceProcess, snapshot: Path) -> None:
    with Client(service.path) as client:
        assert client.info(snapshot) == client.verify(snapshot).snapshot
        flip(next(snapshot.glob("*.chunks")))
        with pytest.raises(SnapshotError, match="chunks"):
            client.verify(snapshot)
        with pytest.raises(UsageError, match="is a file, of which a snapshot is made without"):
            client.save(snapshot / "pc.ram.ram", snapshot.parent / "two")


@pytest.mark.parametrize("command", ["verify", "info"])
def test_by_the_command(service: ServiceProcess, snapshot: Path, command: str) -> None:
    via = ("--via", service.path)
    done = [pagecheck(command, "--json", *more, snapshot) for more in ((), via)]
    here, there = (json.loads(each.stdout) for each in done)
    assert {**here, "seconds": 0} == {**there, "seconds": 0}
    nobody = ("--via", f"{service.path}.no")
    assert_fails(pagecheck(command, *nobody, snapshot), 3, "no service there")
    assert_fails(pagecheck(command, "--via-uid", "1", snapshot), 2, "goes with --via SOCKET")
    flip(snapshot / "manifest.json")
    assert_fails(pagecheck(command, *via, snapshot), 5, "manifest.json")


BLOCK = {
    "name": "ram",
    "bytes": 8192,
    "unit_bytes": 4096,
    "zero_bytes": 4096,
    "allocated_before": 8192,
    "allocated_after": 4096,
}
PUNCHED = {"blocks": [BLOCK], "why_incomplete": None, "pause": None, "notes": ["one"]}


def test_the_answer_to_a_punch() -> None:
    report = punched(PUNCHED, "qmp:/vm", dry_run=False, seconds=1.0)
    assert (report.freed_bytes, report.notes, report.proof) == (4096, ("one",), "pause")


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": None},
        {"blocks": [{**BLOCK, "bytes": 0}]},
        {"blocks": [{**BLOCK, "zero_bytes": -1}]},
        {"blocks": [{**BLOCK, "name": 7}]},
        {"why_incomplete": 7},
        {"pause": 7},
        {"notes": "one"},
    ],
)
def test_a_wrong_answer_to_a_punch(wrong: dict[str, object]) -> None:
    with pytest.raises(PeerError):
        punched({**PUNCHED, **wrong}, "qmp:/vm", dry_run=False, seconds=1.0)
