"""Punching a QEMU's shared RAM through a service: for whom, and what becomes of the RAM."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import pagecheck.service as service_package
from pagecheck import Client
from pagecheck.errors import LimitError, SourceError, UsageError
from pagecheck.service import remote_punch  # for users who may not load it
from tests.support.command import assert_fails
from tests.support.command import pagecheck as command
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService
from tests.support.service_fixtures import short_folder, start_service
from tests.support.users import NOBODY, Forked, needs_root
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend

__all__ = ["remote_punch", "short_folder", "start_service"]

pytestmark = [pytest.mark.long, needs_root, pytest.mark.timeout(120)]

OWNER = NOBODY - 1  # of QEMU
STOPPER = NOBODY - 3
SAVER = NOBODY - 4
SIZE = 64 << 20
DATA = SIZE // 2, 4 << 20
SCHEMA: dict[str, Any] = json.loads(files(service_package).joinpath("schema.json").read_text())


@pytest.fixture
def qemu() -> Iterator[BareQemu]:
    """All of its RAM is allocated; 4 MiB are random."""
    backend = memfd_backend(f"{SIZE >> 20}M", more=",share=on,prealloc=on")
    with bare_qemu(*backend, "-machine", "memory-backend=mem0", uid=OWNER) as running:
        running.qmp("stop")  # so that its firmware, if it is slow, changes nothing meanwhile
        running.qmp("cont")
        with ram_of(running).open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), os.urandom(DATA[1]), DATA[0])
        running.own_events()
        yield running


def ram_of(qemu: BareQemu) -> Path:
    """The memfd that its RAM is in."""
    links = Path(f"/proc/{qemu.pid}/fd").iterdir()
    return next(each for each in links if "memory-backend" in os.readlink(each))


def allocated(qemu: BareQemu) -> int:
    return ram_of(qemu).stat().st_blocks * 512


def data(qemu: BareQemu) -> bytes:
    with ram_of(qemu).open("rb", buffering=0) as file:
        return os.pread(file.fileno(), DATA[1], DATA[0])


@pytest.fixture
def service(start_service: StartService, short_folder: Path) -> ServiceProcess:
    path = short_folder / "policy.toml"
    path.write_text(
        f"[[allow]]\nusers = [{STOPPER}]\nvms_of = [{OWNER}]\npause = true\n"
        f"[[allow]]\nusers = [{SAVER}]\nvms_of = [{OWNER}]\nsave = true\n"
    )
    short_folder.chmod(0o755)
    return start_service("--policy", path, "--allow-uid", OWNER, "-v")


def punched(service: ServiceProcess, qemu: BareQemu, uid: int, **more: Any) -> str:
    """A user punches; the error, or ""."""

    def work() -> None:
        with Client(service.path) as client:
            client.punch(f"qmp:{qemu.socket}", **more)

    return Forked(work, uid).wait()


@pytest.mark.parametrize("uid", [0, OWNER])
def test_who_may_punch(qemu: BareQemu, service: ServiceProcess, uid: int) -> None:
    kept = data(qemu)
    assert allocated(qemu) == SIZE
    assert punched(service, qemu, uid, dry_run=True) == ""
    assert allocated(qemu) == SIZE
    assert qemu.own_events() == []
    assert punched(service, qemu, uid) == ""
    assert allocated(qemu) < SIZE // 4
    assert data(qemu) == kept
    assert qemu.status() == "running"
    assert qemu.own_events() == ["STOP", "RESUME"]
    assert f"user {uid}: qmp:" in service.stderr_text()


@pytest.mark.parametrize("uid", [STOPPER, SAVER])
def test_who_may_not(qemu: BareQemu, service: ServiceProcess, uid: int) -> None:
    """No policy lends it."""
    told = punched(service, qemu, uid)
    assert told.startswith("AccessError: ")
    assert "its RAM not be written to" in told
    assert qemu.own_events() == []
    assert allocated(qemu) == SIZE


def test_a_file_that_its_vmm_may_only_read(service: ServiceProcess, short_folder: Path) -> None:
    """Root's, shared with the guest of somebody who may not write to it."""
    path = short_folder / "root's"
    path.write_bytes(bytes(SIZE))
    path.chmod(0o644)
    more = f"mem-path={path},size={SIZE},share=on,readonly=on"
    backend = memfd_backend("64M", more=",share=on")
    args = (
        "-object",
        f"memory-backend-file,id=ro,{more}",
        "-device",
        "nvdimm,memdev=ro,unarmed=on",
    )
    machine = ("-machine", "memory-backend=mem0,nvdimm=on", "-m", "64M,slots=1,maxmem=1G")
    with bare_qemu(*backend, *machine, *args, uid=OWNER) as running:
        told = punched(service, running, OWNER)
        assert path.stat().st_blocks * 512 == SIZE
        assert told.startswith("AccessError: ")
        assert "ro: is a file that its VMM does not map for writing" in told
        assert running.own_events() == []


def test_the_report(qemu: BareQemu, service: ServiceProcess) -> None:
    steps: list[tuple[int, int]] = []
    with Client(service.path) as client:
        report = client.punch(
            f"qmp:{qemu.socket}", max_rate=1 << 26, progress=lambda *step: steps.append(step)
        )
        numbers = client.stats()["numbers"]
        with pytest.raises(LimitError, match=r"this service allows 5\.0 s"):
            client.punch(f"qmp:{qemu.socket}", max_pause=6)
        with pytest.raises(UsageError, match="is a file"):
            client.punch("/dev/shm/ram")
    (block,) = report.blocks
    assert (block.name, block.size, block.allocated_before) == ("mem0", SIZE, SIZE)
    assert block.freed_bytes == block.zero_bytes > SIZE * 3 // 4
    assert report.proof == "pause"
    assert report.why_incomplete is None
    assert report.pause is not None
    assert report.pause.stood_still
    assert steps
    assert numbers["punches"] == numbers["pauses"] == 1
    assert numbers["pause_seconds"] == round(report.pause.seconds, 6)
    assert numbers["punched_bytes"] == block.zero_bytes


def test_what_is_said_conforms(qemu: BareQemu, service: ServiceProcess) -> None:
    with RawClient(service.path) as client:
        client.receive()
        block = client.result("attach", {"qmp": str(qemu.socket)})["block"]
        definition = {**SCHEMA, "anyOf": [{"$ref": "#/$defs/punch-return"}]}
        for dry_run in (True, False):
            answer = client.result("punch", {"block": block, "dry_run": dry_run})
            Draft202012Validator(definition).validate(answer)


def test_a_client_that_hangs_up_before_the_pause(qemu: BareQemu, service: ServiceProcess) -> None:
    with RawClient(service.path) as client:
        client.receive()
        block = client.result("attach", {"qmp": str(qemu.socket)})["block"]
        asked = {"block": block, "max_rate": 1 << 20, "progress": True}
        client.send({"execute": "punch", "arguments": asked})
        assert "event" in client.receive()[0]
    with Client(service.path) as other:  # which waits for the one before
        assert other.punch(f"qmp:{qemu.socket}", dry_run=True).zero_bytes > 0
    assert qemu.own_events() == []
    assert allocated(qemu) == SIZE


def test_private_ram(service: ServiceProcess) -> None:
    with bare_qemu(size="64M", uid=OWNER) as plain, Client(service.path) as client:
        with pytest.raises(SourceError, match="is private to its VMM"):
            client.punch(f"qmp:{plain.socket}")
        assert plain.own_events() == []


def test_by_the_command(qemu: BareQemu, service: ServiceProcess) -> None:
    via, source = ("punch", "--via", service.path), f"qmp:{qemu.socket}"
    done = command(*via, "--json", "--quiet", source)
    assert json.loads(done.stdout)["freed_bytes"] > SIZE // 2
    assert_fails(command(*via, "--nobody-writes", source), 2, "a service punches VMs only")
    assert_fails(command(*via, "--channels", "1", source), 2, "is the service's to choose")
    assert_fails(command(*via, "/dev/shm/ram"), 2, "is a file")
