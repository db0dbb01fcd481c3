"""Which parts of a file or a RAM block are looked at: pure arithmetic."""

import random

import pytest

from pagecheck.snapshot.punch_file import NEAR_BYTES, Stretch, stretches
from pagecheck.snapshot.punch_vm import REQUEST_BYTES, REQUEST_RANGES, overlaps, requests

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
