"""What the APIs of Firecracker and Cloud Hypervisor say of RAM, and answers that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm import open_vm
from pagecheck.vmm.find.api_ram import api_says
from pagecheck.vmm.kinds import KINDS, VmmKind
from pagecheck.vmm.options.ram_options import CommandLine, RamOption
from tests.support.api_vmm import api_vmm

MIB = 1 << 20
RUNNING = {"id": "x", "state": "Running"}


class Fake:
    """A VMM that gives these answers."""

    def __init__(self, kind: str, answers: dict[str, Any]) -> None:
        self.kind: VmmKind = KINDS[kind]
        self.name = f"{kind}:/x"
        self._answers = answers

    def execute(self, command: str) -> Any:
        return self._answers[command.removeprefix("GET ")]


def firecracker(mib: object, config: object | None = None, state: str = "Running") -> CommandLine:
    answers = {
        "/": {**RUNNING, "state": state},
        "/machine-config": {"vcpu_count": 2, "mem_size_mib": mib},
        "/vm/config": {"drives": []} if config is None else config,
    }
    return api_says("fc:/x", Fake("fc", answers))  # type: ignore[arg-type]


def cloud_hypervisor(
    memory: object, platform: object | None = None, state: str = "Running"
) -> CommandLine:
    config = {"memory": memory, "platform": platform}
    answers = {"/api/v1/vm.info": {"config": config, "state": state}}
    return api_says("ch:/x", Fake("ch", answers))  # type: ignore[arg-type]


def test_firecracker() -> None:
    said = firecracker(1024)
    assert said == CommandLine("Firecracker", "", (RamOption("ram", 1024 * MIB, None),))


def test_memory_that_is_plugged_into_firecracker() -> None:
    config = {"memory-hotplug": {"total_size_mib": 256, "slot_size_mib": 128}}
    assert [(x.name, x.size) for x in firecracker(128, config).ram] == [
        ("ram", 128 * MIB),
        ("hotplug", 256 * MIB),
    ]
    assert len(firecracker(128, {"memory-hotplug": None}).ram) == 1


def test_one_that_is_not_started() -> None:
    with pytest.raises(SourceError, match=r"^fc:/x: its VM is not started, and has no RAM yet$"):
        firecracker(128, state="Not started")
    for state in ("Created", "Shutdown"):
        with pytest.raises(SourceError, match=rf"is not booted \({state}\), and has no RAM"):
            cloud_hypervisor({"size": MIB}, state=state)


@pytest.mark.parametrize(
    ("mib", "said"),
    [
        ("1024", r"mem_size_mib: must be a number of bytes"),
        (-1, r"mem_size_mib: must be a number"),
        (1 << 60, r"mem_size_mib: must be a size in MiB, is .*; give the path of Firecracker's"),
        (None, r"mem_size_mib: must be a number"),
    ],
)
def test_sizes_that_are_none(mib: object, said: str) -> None:
    with pytest.raises(PeerError, match=said):
        firecracker(mib)


def test_cloud_hypervisor() -> None:
    assert cloud_hypervisor({"size": 512 * MIB, "shared": True, "zones": None}) == CommandLine(
        "Cloud Hypervisor", "", (RamOption("ram", 512 * MIB, True),)
    )


def test_zones_and_what_is_plugged() -> None:
    zones = [
        {"id": "a", "size": 64 * MIB, "shared": True, "hotplug_size": 32 * MIB},
        {"size": 64 * MIB, "shared": False},
    ]
    memory = {"size": 0, "hotplug_method": "VirtioMem", "zones": zones}
    assert cloud_hypervisor(memory).ram == (
        RamOption("a", 64 * MIB, True),
        RamOption("a-virtio-mem", 32 * MIB, True),
        RamOption("zone-1", 64 * MIB, False),
    )
    plugged = {"size": MIB, "hotplug_method": "Acpi", "hotplugged_size": 128 * MIB}
    assert RamOption("ram-plugged", 128 * MIB, False) in cloud_hypervisor(plugged).ram


@pytest.mark.parametrize("word", ["tdx", "sev_snp"])
def test_confidential_vms(word: str) -> None:
    assert cloud_hypervisor({"size": MIB}, {word: True}).confidential == word
    assert cloud_hypervisor({"size": MIB}, {word: False}).confidential == ""


@pytest.mark.parametrize(
    "memory",
    [
        {},
        [],
        None,
        {"size": "1G"},
        {"size": 1, "shared": 1},
        {"size": 1, "zones": 7},
        {"size": 1, "zones": [7]},
        {"size": 1, "zones": [{"size": 1, "id": 7}]},
        {"size": 1, "zones": [{"size": 1}] * 2000},
        {"size": 1, "hotplug_method": 1},
    ],
)
def test_answers_that_say_nothing(memory: object) -> None:
    with pytest.raises(PeerError, match=r"^ch:/x: the answer to GET /api/v1/vm.info, .*must be"):
        cloud_hypervisor(memory)


@pytest.mark.usefixtures("clean")
def test_a_process_without_the_ram_that_the_api_says(tmp_path: Path) -> None:
    with api_vmm("fc", tmp_path / "api", mib=48) as vmm:
        answer = '{"vcpu_count": 1, "mem_size_mib": 333}'
        vmm.fail({"GET /machine-config": f"then body {answer}"})
        with pytest.raises(SourceError, match=r"no private mapping has the 333 MiB of ram"):
            open_vm(vmm.source)
        vmm.fail({})
        with open_vm(vmm.source) as vm:
            assert [(each.source.name, each.size) for each in vm.rams] == [("ram", 48 * MIB)]


@pytest.mark.usefixtures("clean")
def test_a_vm_that_ends_while_it_is_opened(tmp_path: Path) -> None:
    with api_vmm("fc", tmp_path / "api", mib=48) as vmm:
        vmm.fail({"GET /vm/config": "then die"})
        with pytest.raises(PeerError, match=r"no answer to GET /vm/config"):
            open_vm(vmm.source)
