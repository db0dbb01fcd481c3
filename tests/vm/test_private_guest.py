"""Real guests whose RAM is private: what we say of each page, and what QEMU itself says.

`--worlds N` kills N scans that hold each guest, and holds it as often before its own check.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import pagecheck
from tests.support.bitmaps import bits
from tests.support.command import start
from tests.support.footprint import footprint_of_ram, unchanged
from tests.support.kernel_settings import set_to
from tests.support.processes import has_answers, kill
from tests.support.rams import PAGE
from tests.support.target import swap_file
from tests.support.waiting import wait_for
from tests.vm.killing import kill_at_random, status
from tests.vm.memory_of_qemu import HIDDEN, by_dump, by_pmemsave, by_process, swap_out
from tests.vm.private_guests import BLOCKS, MACHINES, private_guest, source
from tools.guest import Guest
from tools.guest.fetch import GuestFiles

KSM: Final = Path("/sys/kernel/mm/ksm")

pytestmark = [pytest.mark.long(but="pc"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module", params=MACHINES)
def guest(request: pytest.FixtureRequest, guest_files: GuestFiles) -> Iterator[Guest]:
    """It runs."""
    with private_guest(request.param) as booted:
        yield booted


@pytest.fixture
def often(request: pytest.FixtureRequest) -> int | None:
    """How often, if that was asked for."""
    wanted: int | None = request.config.getoption("--worlds")
    return wanted


@pytest.fixture
def stopped(guest: Guest) -> Iterator[Guest]:
    """The same, stopped by others."""
    guest.pause()
    yield guest
    assert status(guest) == "paused", "we did not stop it"
    guest.resume()


def zero_of(report: pagecheck.Report) -> np.ndarray:
    """The zero pages of all blocks in the order of their addresses; every page is decided."""
    assert report.total.undecided == 0, report.notes
    found = [bits(each.zero, each.block.pages) for each in report.blocks]
    normal = [bits(each.normal, each.block.pages) for each in report.blocks]
    assert np.array_equal(np.concatenate(normal), ~np.concatenate(found))
    return np.concatenate(found)


def test_every_page_is_as_qemu_has_it(stopped: Guest, tmp_path: Path) -> None:
    """Ours come first: QEMU's own ways touch every page. Then they are there, and zero still."""
    by_pid = unchanged(stopped.pid, lambda: pagecheck.scan(f"pid:{stopped.pid}", channels=2))
    assert by_pid.answer == "live"
    report = unchanged(
        stopped.pid, lambda: pagecheck.scan(source(stopped), pause=True), footprint_of_ram
    )
    assert report.answer == "paused"
    assert [each.block.name for each in report.blocks] == BLOCKS[stopped.spec.machine]
    assert report.total.pages * PAGE == stopped.spec.size_bytes
    assert 0 < report.total.hole < report.total.zero < report.total.pages
    ours = zero_of(report)
    assert zero_of(by_pid).sum() == ours.sum()  # the blocks in any order
    assert {bytes(each.zero) for each in by_pid.blocks} == {
        bytes(each.zero) for each in report.blocks
    }
    for theirs in (by_pmemsave(stopped, tmp_path), by_dump(stopped, tmp_path)):
        theirs[HIDDEN] = ours[HIDDEN]
        assert np.array_equal(ours, theirs)
    assert np.array_equal(ours, by_process(stopped))
    for page_size in (PAGE, 2 * PAGE, 64 << 10, 2 << 20):
        larger = ours.reshape(-1, page_size // PAGE).all(axis=1)
        assert np.array_equal(zero_of(pagecheck.scan(source(stopped), page_size=page_size)), larger)


def test_what_is_swapped_out_stays_so(stopped: Guest) -> None:
    """Unless it is to be read."""
    with swap_file(160):
        swap_out(stopped, 16 << 20, 96 << 20)
        report = unchanged(stopped.pid, lambda: pagecheck.scan(f"pid:{stopped.pid}"))
        assert 1000 < report.total.swapped == report.total.undecided
        read = pagecheck.scan(f"pid:{stopped.pid}", swapped="read")
        assert zero_of(read).sum() == by_process(stopped).sum()


def test_what_ksm_merged_stays_merged(stopped: Guest) -> None:
    """A host that is full with the help of KSM has no memory for what would be unmerged."""
    if not KSM.exists():
        pytest.skip("no KSM in this kernel")
    merging = Path(f"/proc/{stopped.pid}/ksm_merging_pages")
    with set_to(KSM / "pages_to_scan", 20000), set_to(KSM / "sleep_millisecs", 1):
        with set_to(KSM / "run", 1):
            wait_for(lambda: int(merging.read_text()) > 500, "KSM merged pages", 60)
        merged = merging.read_text()
        report = pagecheck.scan(f"pid:{stopped.pid}")
        assert merging.read_text() == merged
        assert np.array_equal(zero_of(report), zero_of(pagecheck.scan(f"pid:{stopped.pid}")))
        assert zero_of(report).sum() == by_process(stopped).sum()


def test_a_running_guest_gives_a_hint(guest: Guest) -> None:
    for given in (source(guest), f"pid:{guest.pid}"):
        report = pagecheck.scan(given)
        assert report.answer == "live"
        assert 0 < report.total.zero < report.total.pages
        assert report.total.undecided <= report.total.pages // 100
    assert status(guest) == "running"


@pytest.mark.long
def test_pauses_leave_it_as_it_is(guest: Guest, often: int | None) -> None:
    """The guest's own checksums hold."""
    for _ in range(often or (20 if guest.spec.machine == "pc" else 2)):
        report = pagecheck.scan(source(guest), pause=True, channels=1)
        assert report.answer == "paused"
        assert report.total.undecided == 0
        assert status(guest) == "running"
    assert guest.wait_check().endswith(" OK")


@pytest.mark.timeout(600)
def test_killed_while_it_is_held(guest: Guest, often: int | None) -> None:
    """And it runs again, each time, with what it had in its memory."""
    kills = often or 5
    assert kill_at_random(guest, source(guest), rounds=kills) > kills // 2
    assert guest.wait_check().endswith(" OK")


@pytest.mark.long
def test_qemu_dies_while_it_is_looked_at(guest_files: GuestFiles) -> None:
    """Nothing is told of a VM that is gone."""
    with private_guest("microvm") as guest:
        running = start("scan", "--json", "--max-rate", "32M", f"pid:{guest.pid}")
        wait_for(lambda: has_answers(running.pid), "pages are answered")
        kill(guest.pid)
        out, error = running.communicate(timeout=30)
        assert "Traceback" not in error
        assert (running.returncode, out) == (2, "") or '"zero": 0,' in out, (out, error)
