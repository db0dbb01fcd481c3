"""The stand-ins for Firecracker and Cloud Hypervisor refuse what their API documents refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_vmm import ApiVmm, api_vmm


@pytest.fixture
def fc(tmp_path: Path) -> Iterator[ApiVmm]:
    with api_vmm("fc", tmp_path / "api") as vmm:
        yield vmm


@pytest.fixture
def ch(tmp_path: Path) -> Iterator[ApiVmm]:
    with api_vmm("ch", tmp_path / "api") as vmm:
        yield vmm


@pytest.mark.parametrize(
    ("request_", "body", "said"),
    [
        ("PUT /vm", '{"state": "Paused"}', "Invalid request method and/or path: PUT vm."),
        ("GET /vm", None, "Invalid request method and/or path: GET vm."),
        ("GET /", "{}", "GET request cannot have a body."),
        ("PATCH /vm", None, "Empty PATCH request."),
        ("PATCH /vm", "{", "An error occurred when deserializing the json body"),
        ("PATCH /vm", '{"state": "Running"}', "unknown variant `Running`"),
        ("PATCH /vm", '{"state": "Paused", "more": 1}', "An error occurred when deserializing"),
        ("POST /vm", '{"state": "Paused"}', "Invalid HTTP request"),
        ("PATCH /vm/state", '{"state": "Nothing"}', "Invalid request method and/or path"),
    ],
)
def test_firecracker_refuses(fc: ApiVmm, request_: str, body: str | None, said: str) -> None:
    status, answer = fc.ask(request_, body)
    assert status == 400
    assert said in json.loads(answer)["fault_message"]
    assert fc.state() == "Running"


def test_firecracker_accepts_what_changes_nothing(fc: ApiVmm) -> None:
    assert [fc.resume()[0], fc.pause()[0], fc.pause()[0], fc.state()] == [204, 204, 204, "Paused"]


def test_firecracker_before_its_start(tmp_path: Path) -> None:
    with api_vmm("fc", tmp_path / "api", state="Not started") as vmm:
        assert vmm.pause()[0] == 400


@pytest.mark.parametrize(
    ("request_", "body", "status"),
    [
        ("GET /api/v1/vm.pause", None, 400),
        ("PATCH /api/v1/vm.pause", None, 400),
        ("PUT /api/v1/vm.info", None, 400),
        ("PUT /api/v1/vm.pause", "{}", 400),
        ("PUT /vm.pause", None, 404),
        ("PUT /api/v1/vm.stop", None, 404),
        ("PUT /api/v1/vm.resume", None, 500),  # of one that runs
        ("POST /api/v1/vm.pause", None, 400),
    ],
)
def test_cloud_hypervisor_refuses(ch: ApiVmm, request_: str, body: str | None, status: int) -> None:
    assert ch.ask(request_, body)[0] == status
    assert ch.state() == "Running"


def test_cloud_hypervisor_refuses_what_changes_nothing(ch: ApiVmm) -> None:
    assert [ch.pause()[0], ch.pause()[0], ch.resume()[0], ch.resume()[0]] == [204, 500, 204, 500]


@pytest.mark.parametrize(("state", "status"), [("none", 404), ("Created", 500), ("Shutdown", 500)])
def test_cloud_hypervisor_without_a_vm_that_runs(tmp_path: Path, state: str, status: int) -> None:
    with api_vmm("ch", tmp_path / "api", state=state) as vmm:
        assert vmm.pause()[0] == vmm.resume()[0] == status
