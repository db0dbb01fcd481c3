"""VMs of other VMMs than QEMU, by stand-ins: their RAM is saved while they are paused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import UsageError
from pagecheck.snapshot import manifest
from tests.support.api_vmm import ApiVmm, api_vmm
from tests.support.crosvm import PAGES as CROSVM_PAGES
from tests.support.crosvm import Crosvm, put_on_path

pytestmark = pytest.mark.usefixtures("clean")
MIB = 32
PAGES = MIB << 8


@pytest.fixture(params=["fc-private", "fc-shared", "ch-private", "ch-shared"])
def vmm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiVmm]:
    kind, _, backing = request.param.partition("-")
    with api_vmm(kind, tmp_path / "api", mib=MIB, shared=backing == "shared") as running:
        yield running


def test_its_ram_is_saved(vmm: ApiVmm, shm_folder: Path, request: pytest.FixtureRequest) -> None:
    live = "private" in request.node.name
    report = pagecheck.save(vmm.source, shm_folder / "snap", channels=1, live=live)
    assert vmm.runs()
    assert len(vmm.changes()) == 2
    assert report.exact
    assert report.total.normal == PAGES // 2 + 1  # every second one, and the one of the vCPUs
    pagecheck.verify(shm_folder / "snap")
    snapshot = manifest.read(shm_folder / "snap")
    assert snapshot.machine is not None
    assert snapshot.machine.vmm == {"fc": "Firecracker", "ch": "Cloud Hypervisor"}[vmm.kind]
    assert (snapshot.state, snapshot.disks) == (None, ())
    again = pagecheck.scan(shm_folder / "snap" / snapshot.blocks[0].file, channels=1)
    assert again.blocks[0].counts.normal == report.total.normal


def test_more_than_its_ram_is_refused(vmm: ApiVmm, shm_folder: Path) -> None:
    for more in ({"disks": "overlay"}, {"then": "quit"}):
        with pytest.raises(UsageError, match="are for qmp:SOCKET"):
            pagecheck.save(vmm.source, shm_folder / "snap", channels=1, **more)  # type: ignore[arg-type]
    assert vmm.changes() == []
    assert list(shm_folder.iterdir()) == []


def test_crosvm(tmp_path: Path, shm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, monkeypatch)
    crosvm = Crosvm(tmp_path)
    with contextlib.ExitStack() as end:
        end.callback(crosvm.end)
        report = pagecheck.save(f"crosvm:{crosvm.path}", shm_folder / "snap", channels=1)
        assert crosvm.runs()
    assert report.exact
    assert report.total.pages == CROSVM_PAGES
    assert report.total.normal == CROSVM_PAGES // 2
    pagecheck.verify(shm_folder / "snap")
