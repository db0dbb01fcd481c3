"""A VM whose RAM is still to come: real migrations, looked at half way through and at their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pagecheck
from pagecheck.errors import SourceError
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu, file_backend

pytestmark = [pytest.mark.usefixtures("guest_files"), pytest.mark.timeout(120)]

MIB = 1 << 20
SIZE = 64 * MIB
HELD = 4096  # bytes per second: nothing but what the destination asks for
MACHINE = "q35,memory-backend=mem0"


class Migration(NamedTuple):
    """Two QEMUs, the second of which waits for the first one's guest."""

    source: BareQemu
    destination: BareQemu
    folder: Path

    @property
    def ram(self) -> Path:
        """The destination's RAM file."""
        return self.folder / "to"

    def both(self, command: str, **arguments: Any) -> None:
        for qemu in (self.source, self.destination):
            qemu.qmp(command, **arguments)

    def begin(self, bandwidth: int = 64 * MIB) -> None:
        """Starts a migration that is half done by the time this returns."""
        parameters = {"max-bandwidth": bandwidth, "max-postcopy-bandwidth": HELD}
        self.source.qmp("migrate-set-parameters", **parameters)
        self.destination.qmp("migrate-incoming", uri=f"unix:{self.folder}/stream")
        self.source.qmp("migrate", uri=f"unix:{self.folder}/stream")
        wait_for(lambda: os.stat(self.ram).st_blocks * 512 > SIZE // 8, "RAM arrives")
        self.source.qmp("migrate-set-parameters", **{"max-bandwidth": HELD})
        assert os.stat(self.ram).st_blocks * 512 < SIZE // 2

    def complete(self) -> None:
        fast = {"max-bandwidth": 1 << 40, "max-postcopy-bandwidth": 1 << 40}
        self.source.qmp("migrate-set-parameters", **fast)
        wait_for(lambda: self.incoming() == "completed", "RAM arrived")
        wait_for(lambda: self.outgoing() == "completed", "RAM sent")

    def incoming(self) -> str:
        return str(self.destination.qmp("query-migrate").get("status"))

    def outgoing(self) -> str:
        return str(self.source.qmp("query-migrate")["status"])

    def scan(self, by: str = "qmp") -> pagecheck.Report:
        """Scans the destination."""
        name = f"qmp:{self.destination.socket}" if by == "qmp" else f"pid:{self.destination.pid}"
        return pagecheck.scan(name)


@contextlib.contextmanager
def migration(folder: Path, *args: str) -> Iterator[Migration]:
    """The source runs its firmware; but for the first MiB all of its RAM is not zero."""
    came = ("-incoming", "defer", *args)
    with (
        bare_qemu(*file_backend("64M", folder / "from"), *args, machine=MACHINE) as source,
        bare_qemu(*file_backend("64M", folder / "to"), *came, machine=MACHINE) as destination,
    ):
        with (folder / "from").open("r+b") as file:
            file.seek(16 * MIB)
            file.write(b"x" * (SIZE - 16 * MIB))
        yield Migration(source, destination, folder)


def test_one_that_waits(shm_folder: Path) -> None:
    with (
        migration(shm_folder) as each,
        pytest.raises(SourceError, match="waits for an incoming migration: memory that has not"),
    ):
        each.scan()


def test_half_way_through_a_precopy(shm_folder: Path) -> None:
    with migration(shm_folder) as each:
        each.begin(8 * MIB)
        with pytest.raises(SourceError, match="waits for an incoming migration"):
            each.scan()
        report = each.scan("pid")  # which cannot know
        assert any("migration" in note for note in report.notes)
        source = pagecheck.scan(f"qmp:{each.source.socket}")  # a source is all there
        assert source.total.undecided == 0
        each.complete()
        report = each.scan()
        assert report.total.undecided == 0
        assert report.total.normal >= (SIZE - 16 * MIB) // 4096


def test_half_way_through_a_postcopy(shm_folder: Path) -> None:
    with migration(shm_folder) as each:
        on = [{"capability": "postcopy-ram", "state": True}]
        each.both("migrate-set-capabilities", capabilities=on)
        each.begin(8 * MIB)
        each.source.qmp("migrate-start-postcopy")
        wait_for(lambda: each.incoming() == "postcopy-active", "post-copy")
        wait_for(lambda: each.destination.status() == "running", "the destination running")
        with pytest.raises(SourceError, match=r"destination of a migration that is postcopy-act"):
            each.scan()
        with pytest.raises(SourceError, match=r"pages of it have yet to arrive \(userfaultfd\)"):
            each.scan("pid")
        each.complete()
        for by in ("qmp", "pid"):
            report = each.scan(by)
            assert report.total.undecided == 0
            assert report.total.normal >= (SIZE - 16 * MIB) // 4096


def test_a_source_whose_migration_ended_badly(shm_folder: Path) -> None:
    """It tells no `ram` any more, and is all there."""
    with migration(shm_folder) as each:
        each.begin(8 * MIB)
        each.source.qmp("migrate_cancel")
        wait_for(lambda: each.outgoing() == "cancelled", "the migration cancelled")
        assert pagecheck.scan(f"qmp:{each.source.socket}").total.undecided == 0
        each.source.qmp("migrate", uri=f"unix:{shm_folder}/nobody")
        wait_for(lambda: each.outgoing() == "failed", "the migration failed")
        assert pagecheck.scan(f"qmp:{each.source.socket}").total.undecided == 0


def test_a_vm_that_was_never_to_be_a_destination_gets_no_note(shm_folder: Path) -> None:
    with bare_qemu("-S", *file_backend("64M", shm_folder / "ram"), machine=MACHINE) as qemu:
        assert pagecheck.scan(f"pid:{qemu.pid}").notes == ()
