"""Times that a benchmark compares, as a row of its table."""

from __future__ import annotations

from tools.bench.rows import Row, Spread


def test_times_are_compared_repeat_by_repeat() -> None:
    told = {"what": "us", "case": "a case", "peer": "them", "aim": 2.0}
    row = Row.of_seconds([0.001, 0.002, 0.004], [0.004, 0.002, 0.012], [0.0005], **told)
    assert row.ratio == Spread(1.0, 3.0, 4.0)
    assert (row.ours, row.theirs, row.limit, row.unit) == (2.0, 4.0, 0.5, "ms")
    assert row.name == ("us", "a case", "them")
    assert row.reached
    assert Row.of_seconds([0.001], [0.001], **told).limit is None
