"""`tools.bench.scale`: the slowest server decides."""

import pytest

from tools.bench.record import Run
from tools.bench.scale import Constants, Host, servers, table

CONSTANTS = Constants(zero_ns=200, normal_ns=15, submit_instructions=48, coordinator_us=4)


def test_one_core_checks_zero_pages_at_its_own_pace() -> None:
    found = servers(CONSTANTS, Host(cores=1, devices=0, memory_gb_s=250), zero=1.0)
    assert min(found, key=lambda name: found[name]) == "workers"
    assert found["workers"] == pytest.approx(4096 / 200)


def test_many_cores_meet_the_memory_first() -> None:
    found = servers(CONSTANTS, Host(cores=64, devices=0, memory_gb_s=250), zero=1.0)
    assert min(found, key=lambda name: found[name]) == "memory"


def test_sampled_pages_meet_the_coordinator_first() -> None:
    found = servers(CONSTANTS, Host(cores=64, devices=0, memory_gb_s=250), zero=0.0)
    assert min(found, key=lambda name: found[name]) == "coordinator"
    assert found["coordinator"] == pytest.approx((2 << 20) / 4 / 1e3)


def test_one_device_is_its_own_limit() -> None:
    found = servers(CONSTANTS, Host(cores=64, devices=1, memory_gb_s=250), zero=1.0)
    assert min(found, key=lambda name: found[name]) == "devices"


def test_every_line_names_two_limits() -> None:
    headings, *rows = table(CONSTANTS, 250)
    assert rows
    assert all(len(row) == len(headings) and row[3] != row[4] for row in rows)


def test_a_run_without_the_suites_is_refused() -> None:
    with pytest.raises(ValueError, match=r"run tools\.bench all"):
        Constants.of(Run("", {}, {}))
