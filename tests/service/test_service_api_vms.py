"""A service that pauses and scans VMs by the APIs of their VMMs, by stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecheck import Client
from tests.support.api_vmm import PAUSE, RESUME, api_vmm
from tests.support.crosvm import PAGES, Crosvm, put_on_path
from tests.support.service import ServiceProcess, StartService

pytestmark = pytest.mark.long(but=("fc", "False-fc", "True-fc"))


@pytest.mark.parametrize("kind", ["fc", "ch"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_vm_is_paused_and_scanned(
    service: ServiceProcess, short_folder: Path, kind: str, shared: bool
) -> None:
    with (
        api_vmm(kind, short_folder / "api", shared=shared) as vmm,
        Client(service.path) as client,
    ):
        report = client.scan(vmm.source, pause=True)
        assert report.answer == "paused"
        assert report.total.normal == (32 << 8) // 2 + 1
        assert vmm.runs()
        assert vmm.changes() == [PAUSE[kind], RESUME[kind]]


@pytest.mark.parametrize("kind", ["fc", "ch"])
def test_a_client_that_goes_away_in_the_pause(
    service: ServiceProcess, short_folder: Path, kind: str
) -> None:
    with api_vmm(kind, short_folder / "api") as vmm:
        with Client(service.path) as client:
            client.attach(vmm.source)
            vmm.pause()
        assert vmm.state() == "Paused"  # it was somebody else who paused it


def test_a_crosvm_by_its_own_program(
    start_service: StartService, short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_path(short_folder, monkeypatch)
    service = start_service("--engine", "cpu")
    crosvm = Crosvm(short_folder)
    try:
        with Client(service.path) as client:
            report = client.scan(f"crosvm:{crosvm.path}", pause=True)
        assert report.answer == "paused"
        assert report.total.normal == PAGES // 2
        assert crosvm.runs()
    finally:
        crosvm.end()
