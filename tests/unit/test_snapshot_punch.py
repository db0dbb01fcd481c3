"""Which parts of a file or a RAM block are looked at: pure arithmetic."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from pagecheck.snapshot.punch_file import NEAR_BYTES, Stretch, stretches
from pagecheck.snapshot.punch_vm import (
    GAP_PAGES,
    REQUEST_BYTES,
    REQUEST_RANGES,
    overlaps,
    requests,
    zero_runs,
)

PAGE, MIB = 4096, 1 << 20


def units(ranges: object, unit: int) -> list[int]:
    found = []
    for begin, end, *_ in ranges:  # type: ignore[attr-defined]
        assert begin % unit == end % unit == 0
        assert begin < end
        found += range(begin // unit, end // unit)
    return found


@pytest.mark.parametrize("unit", [PAGE, 16 * PAGE, 2 * MIB], ids=lambda u: f"{u >> 10}K")
@pytest.mark.parametrize("seed", range(5))
def test_every_unit_with_data_is_looked_at_once(unit: int, seed: int) -> None:
    choice = random.Random(seed)
    size, at, data = 64 * MIB + 5 * PAGE, 0, []
    while at < size:
        begin = at + PAGE * choice.choice((1, 3, 700))
        end = min(begin + PAGE * choice.choice((1, 2, 400)), size)
        if begin < end:
            data.append((begin, end))
        at = end
    found = list(stretches(data, size, unit))
    looked_at = units(found, unit)
    assert looked_at == sorted(set(looked_at))
    with_data = {u for begin, end in data for u in range(begin // unit, -(-end // unit))}
    assert with_data - set(looked_at) <= {size // unit}  # the rest behind the last whole unit
    for stretch in found:
        if stretch.dense:
            assert any(b <= stretch.begin and stretch.end <= e for b, e in data)


def test_long_data_is_dense_and_short_data_is_joined() -> None:
    long = (0, 2 * NEAR_BYTES)
    short = [(3 * NEAR_BYTES + at * PAGE, 3 * NEAR_BYTES + (at + 1) * PAGE) for at in (0, 2, 9)]
    assert list(stretches([long, *short], 8 * MIB, PAGE)) == [
        Stretch(*long, dense=True),
        Stretch(3 * NEAR_BYTES, 3 * NEAR_BYTES + 10 * PAGE, dense=False),
    ]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("rest", [0, 1])
def test_zero_pages_that_are_near_are_one_run(first: int, rest: int) -> None:
    far = GAP_PAGES + 1
    wanted, at = [], first
    for size in (2 + GAP_PAGES, 5, 1):
        wanted.append((at, at + size))
        at += size + far
    pages = wanted[-1][1] + rest
    zero = np.zeros(pages, np.bool_)
    for begin, end in wanted:
        zero[begin:end] = True
    zero[first + 1 : first + 1 + GAP_PAGES] = False
    report = SimpleNamespace(
        block=SimpleNamespace(pages=pages),
        zero=np.pad(np.packbits(zero, bitorder="little"), (0, 8)).tobytes()[: -(-pages // 64) * 8],
    )
    part = SimpleNamespace(start=3 * MIB, unit=2 * PAGE)
    assert list(zero_runs(report, part)) == [  # type: ignore[arg-type]
        (3 * MIB + begin * 2 * PAGE, 3 * MIB + end * 2 * PAGE) for begin, end in wanted
    ]


def test_no_zero_page_is_no_run() -> None:
    report = SimpleNamespace(block=SimpleNamespace(pages=5), zero=bytes(8))
    assert list(zero_runs(report, SimpleNamespace(start=0, unit=PAGE))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_overlaps_are_the_units_with_data(seed: int) -> None:
    choice = random.Random(seed)
    unit = choice.choice((PAGE, 4 * PAGE))

    def parts(step: int) -> list[tuple[int, int]]:
        edges = sorted(choice.sample(range(400), 40))
        return [(edges[i] * step, edges[i + 1] * step) for i in range(0, 40, 2)]

    data, runs = parts(PAGE), parts(unit)
    found = units(overlaps(data, iter(runs), unit), unit)
    with_data = {u for begin, end in data for u in range(begin // unit, -(-end // unit))}
    assert found == sorted(with_data & set(units(runs, unit)))


@pytest.mark.parametrize("unit", [PAGE, 2 * REQUEST_BYTES], ids=["small", "large"])
def test_requests_are_small_and_whole(unit: int) -> None:
    choice = random.Random(1)
    ranges, at = [], 0
    for _ in range(3 * REQUEST_RANGES):
        at += choice.randint(1, 9) * unit
        size = choice.choice((1, 1, 1, 2, 9000 if unit == PAGE else 3)) * unit
        ranges.append((at, at + size))
        at += size
    most = max(REQUEST_BYTES, unit)
    asked = list(requests(ranges, most))
    assert units([each for one in asked for each in one], unit) == units(ranges, unit)
    for one in asked:
        assert len(one) <= REQUEST_RANGES
        assert sum(end - begin for begin, end in one) <= most


def test_the_first_unit_is_looked_at_whole() -> None:
    assert list(overlaps([(0, PAGE)], iter([(0, 2 * PAGE)]), PAGE)) == [(0, PAGE)]


def test_a_request_may_be_full() -> None:
    ranges = [(at * PAGE, end * PAGE) for at, end in ((0, 1), (4, 7), (8, 9), (12, 15))]
    assert list(requests(ranges, 4 * PAGE)) == [ranges[:2], ranges[2:]]
