"""A real guest's RAM on the software device under 200 fault plans: bit for bit the CPU's answer."""

from __future__ import annotations

import os
import time

import pytest

import pagecheck
from tests.support.rams import undisturbed
from tools.guest import Guest

PLANS = 200
MODES = ["shared", "dedicated", "write", "write,version=2"]
STALL_S = 0.4  # a device has a quarter of it to answer
MOST_S = 20.0  # the sum of what a plan may cost in timeouts stays far below


@pytest.fixture(scope="module")
def reference(guest: Guest) -> pagecheck.Report:
    report = pagecheck.scan(str(guest.ram_path), engine="cpu")
    assert report.total.undecided == 0
    return report


@pytest.mark.long(but="19")
@pytest.mark.parametrize("seed", range(PLANS))
def test_every_plan_agrees_with_the_cpu(
    guest: Guest, reference: pagecheck.Report, seed: int
) -> None:
    path = str(guest.ram_path)
    before = os.stat(path).st_blocks
    queue = f"model:mode={MODES[seed % 4]},faults=random,seed={seed},size={8 + seed % 121}"
    begin = time.monotonic()
    report = pagecheck.scan(path, engine="dsa", wq=[queue], stall=STALL_S)
    assert time.monotonic() - begin < MOST_S
    assert report.engine == "dsa"
    counted = report.statistics  # a plan may have the queue full all the time
    assert counted.descriptors > 0 or counted.queue_full > 0
    assert report.total.undecided == 0
    assert bytes(report.blocks[0].zero) == bytes(reference.blocks[0].zero)
    assert bytes(report.blocks[0].normal) == bytes(reference.blocks[0].normal)
    assert os.stat(path).st_blocks == before


def test_the_device_decides_most_of_what_may_be_zero(guest: Guest) -> None:
    path = str(guest.ram_path)
    counted = undisturbed(lambda: pagecheck.scan(path, engine="dsa", wq=["model:"])).statistics
    assert counted.pages_device > 10 * counted.pages_completed
    assert counted.page_faults == 0


def test_the_guest_is_well_after_the_device_looked(guest: Guest) -> None:
    guest.resume()
    try:
        assert "OK" in guest.wait_check()
    finally:
        guest.pause()
