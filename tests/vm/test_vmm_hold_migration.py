"""A VM is held, and migrated: it runs somewhere in the end, and where it does not that is said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import SourceError
from pagecheck.vmm import QemuMonitor
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu, memfd_backend
from tools.guest.fetch import GuestFiles

pytestmark = pytest.mark.usefixtures("clean")

TAKEN = "a migration took the VM away .*at its destination: run cont there"


@pytest.fixture
def pair(guest_files: GuestFiles) -> Iterator[tuple[BareQemu, BareQemu]]:
    """A VM, and one that waits for its migration."""
    with contextlib.ExitStack() as stack:
        words = (*memfd_backend("64M"),)
        machine = "q35,memory-backend=mem0"
        source = stack.enter_context(bare_qemu(*words, machine=machine))
        target = stack.enter_context(bare_qemu(*words, "-incoming", "defer", machine=machine))
        source.own_events()
        yield source, target


def migrate(pair: tuple[BareQemu, BareQemu], *capabilities: str, slowly: bool = False) -> None:
    source, target = pair
    named = [{"capability": name, "state": True} for name in capabilities]
    for each in pair:
        each.qmp("migrate-set-capabilities", capabilities=named)
    if slowly:
        source.qmp("migrate-set-parameters", **{"max-bandwidth": 100_000})
    uri = f"unix:{Path(source.socket).with_name('migration')}"
    target.qmp("migrate-incoming", uri=uri)
    source.qmp("migrate", uri=uri)


def wait_migration(qemu: BareQemu, *statuses: str) -> None:
    wait_for(
        lambda: qemu.qmp("query-migrate").get("status") in statuses,
        f"a migration that is {' or '.join(statuses)}",
    )


def test_it_completes_while_the_vm_is_held(pair: tuple[BareQemu, BareQemu]) -> None:
    source, target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair)
        wait_migration(source, "completed")
        with pytest.raises(SourceError, match=TAKEN):
            monitor.resume()
    assert source.status() == "postmigrate"
    target.wait_status("paused")
    target.qmp("cont")
    target.wait_status("running")


def test_a_reset_of_the_source_after_it(pair: tuple[BareQemu, BareQemu]) -> None:
    source, _target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair)
        wait_migration(source, "completed")
        source.qmp("system_reset")
        source.wait_status("prelaunch")
        with pytest.raises(SourceError, match=TAKEN):
            monitor.resume()
    assert source.status() == "prelaunch"


def test_it_goes_on_when_the_hold_ends(pair: tuple[BareQemu, BareQemu]) -> None:
    source, target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair, slowly=True)
        wait_migration(source, "active")
        assert monitor.resume().stood_still
        assert source.status() == "running"
    source.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    wait_migration(source, "completed")
    target.wait_status("running")


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_it_ends_badly_while_the_vm_is_held(pair: tuple[BareQemu, BareQemu], how: str) -> None:
    source, target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair, slowly=True)
        wait_migration(source, "active")
        if how == "fails":
            target.process.kill()
        else:
            source.qmp("migrate_cancel")
        wait_migration(source, "failed", "cancelled")
        assert monitor.resume().stood_still
        assert source.status() == "running"


def test_it_is_cancelled_at_its_end(pair: tuple[BareQemu, BareQemu]) -> None:
    """QEMU 7.2 leaves "postmigrate" then."""
    source, _target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair, "pause-before-switchover")
        wait_migration(source, "pre-switchover")
        assert source.status() == "finish-migrate"
        source.qmp("migrate_cancel")
        wait_migration(source, "cancelled")
        monitor.resume()
        assert source.status() == "running"


@pytest.mark.parametrize("status", ["active", "pre-switchover"])
def test_it_goes_on_when_a_pause_is_asked_for(pair: tuple[BareQemu, BareQemu], status: str) -> None:
    source, _target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        migrate(pair, "pause-before-switchover", slowly=status == "active")
        wait_migration(source, status)
        source.own_events()
        with pytest.raises(SourceError, match=rf"not paused during its migration \({status}\)"):
            monitor.pause(60)
        assert source.own_events() == []


def test_postcopy_begins_while_the_vm_is_held(pair: tuple[BareQemu, BareQemu]) -> None:
    source, _target = pair
    with QemuMonitor(str(source.socket)) as monitor:
        monitor.pause(60)
        migrate(pair, "postcopy-ram", slowly=True)
        wait_migration(source, "active")
        source.qmp("migrate-start-postcopy")
        wait_migration(source, "postcopy-active")
        with pytest.raises(SourceError, match=TAKEN):
            monitor.resume()
    assert source.status() == "finish-migrate"
