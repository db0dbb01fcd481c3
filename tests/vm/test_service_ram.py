"""The service beside VMs of which not everything can be looked at, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import Client
from pagecheck.errors import SourceError
from tests.support.command import scan_json
from tests.support.service import services
from tests.vm.bare_qemu import BareQemu, bare_qemu, file_backend, memfd_backend
from tests.vm.test_vmm_migration import MIB, SIZE, migration
from tests.vm.test_vmm_qmp import relayed

pytestmark = [pytest.mark.usefixtures("guest_files"), pytest.mark.timeout(120)]

MACHINE = "q35,memory-backend=mem0"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a service."""
    with services(tmp_path_factory.mktemp("service")) as start:
        yield start("--channels", 1).path


@pytest.fixture
def mixed() -> Iterator[BareQemu]:
    """A VM whose second node is private."""
    numa = ("-numa", "node,memdev=mem0", "-numa", "node,memdev=mem1", "-smp", "2")
    second = memfd_backend("64M", "mem1", ",share=off")
    with bare_qemu("-S", *memfd_backend("64M"), *second, *numa, size="128M") as qemu:
        yield qemu


def test_a_private_node(service: str, mixed: BareQemu) -> None:
    with Client(service) as client:
        blocks = client.attach(f"qmp:{mixed.socket}")
        assert [block.ram.name for block in blocks] == ["mem0", "mem1"]
        assert not blocks.unreadable
        found = client.check(blocks, pause=True).blocks
        assert [each.counts.undecided for each in found] == [0, 0]
        assert found[1].counts.zero > 16000


def test_a_private_node_via_the_service(service: str, mixed: BareQemu) -> None:
    report = scan_json("--gpa", "--via", service, f"qmp:{mixed.socket}")
    mem0, mem1 = report["blocks"]
    assert (mem0["undecided"], mem1["undecided"]) == (0, 0)
    assert mem1["regions"][0]["guest_phys_addr"] == 64 * MIB


def test_a_path_that_the_client_vouches_for(service: str, shm_folder: Path, tmp_path: Path) -> None:
    """The process that listens is none that maps the RAM."""
    (shm_folder / "ram").touch()
    with (
        bare_qemu("-S", *file_backend("64M", shm_folder / "ram"), machine=MACHINE) as qemu,
        Client(service) as client,
    ):
        with (
            relayed(qemu.socket, tmp_path / "one"),
            pytest.raises(SourceError, match=r"does not map it; .* with --trust-path"),
        ):
            client.attach(f"qmp:{tmp_path}/one")
        with relayed(qemu.socket, tmp_path / "two"):
            report = client.scan(f"qmp:{tmp_path}/two", trust_path=True)
        assert report.total.undecided == 0
        assert any("nothing proves" in note for note in report.notes)


def test_a_destination_is_refused_until_its_ram_is_there(service: str, shm_folder: Path) -> None:
    with migration(shm_folder) as each, Client(service) as client:
        source = f"qmp:{each.destination.socket}"
        each.begin(8 * MIB)
        with pytest.raises(SourceError, match="waits for an incoming migration"):
            client.attach(source)
        each.complete()
        report = client.scan(source)
        assert report.total.undecided == 0
        assert report.total.normal >= (SIZE - 16 * MIB) // 4096
