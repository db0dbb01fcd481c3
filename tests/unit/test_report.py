"""The report and its JSON document."""

import json

import pytest

from pagecheck.model import Counts, RamBlock
from pagecheck.report.report import BlockReport, Report
from pagecheck.report.statistics import ChannelReport, Failure, Statistics
from pagecheck.shm.layout import STATS, STATS_WORDS

A = Counts(pages=10, zero=4, hole=1, normal=3, undecided=2, unchanged=1)
B = Counts(pages=100, zero=20, hole=5, normal=30, undecided=40, unchanged=10)
COUNTERS = [name for name in Statistics._fields if name != "statuses"]
BOTH = Counts(110, 24, 6, 33, 42, 11)


def make_report(*counts: Counts) -> Report:
    words = memoryview(bytes(8))
    blocks = tuple(
        BlockReport(RamBlock(f"b{n}", c.pages * 4096, 4096), c, words, words)
        for n, c in enumerate(counts)
    )
    return Report("src", "at-rest", "cpu", "avx2", 2, 4096, 1.23456789, 0.5, 4096, blocks, ("n",))


def test_total_is_the_sum() -> None:
    assert make_report(A, B).total == BOTH
    assert make_report().total == Counts()


def test_json_is_the_promised_document() -> None:
    document = json.loads(json.dumps(make_report(A, B).to_json()))
    blocks = [
        {"name": f"b{n}", "bytes": c.pages * 4096, **c._asdict(), "files": {}, "regions": []}
        for n, c in enumerate((A, B))
    ]
    assert document == {
        "version": 1,
        "source": "src",
        "answer": "at-rest",
        "why_live": None,
        "engine": "cpu",
        "kernel": "avx2",
        "channels": 2,
        "page_size": 4096,
        "seconds": 1.234568,
        "startup_seconds": 0.5,
        "bytes_checked": 4096,
        "blocks": blocks,
        "total": BOTH._asdict(),
        "notes": ["n"],
        "pause": None,
        "statistics": {**dict.fromkeys(COUNTERS, 0), "statuses": {}},
        "workers": [],
    }


def test_with_blocks_keeps_the_rest() -> None:
    report = make_report(A, B)
    other = report.with_blocks(report.blocks[:1])
    assert other.total == A
    assert other._replace(blocks=report.blocks) == report


def test_a_report_is_frozen() -> None:
    with pytest.raises(AttributeError):
        make_report(A).seconds = 0.0  # type: ignore[misc]


def test_statistics_find_their_words_by_name() -> None:
    words = list(range(1000, 1000 + STATS_WORDS))
    statistics = Statistics.of(words)
    assert {name: getattr(statistics, name) for name in COUNTERS} == {
        name: 1000 + STATS[name].offset // 8 for name in COUNTERS
    }
    first = 1000 + STATS["statuses"].offset // 8
    assert statistics.statuses["success"] == first + 1
    assert list(statistics.statuses.values()) == list(range(first, first + 64))


def test_a_failure_is_told_in_hexadecimal() -> None:
    record = bytes([0xE1]) + bytes(31)  # bits 7 and 6 are no part of the code
    channel = ChannelReport(0, "dsa", "model:", "enqcmd", "named", (0,) * STATS_WORDS)
    assert channel.to_json()["failure"] is None
    failure = Failure(bytes(range(64)), record)
    assert channel._replace(failure=failure).to_json()["failure"] == {
        "status": "hardware_error_on_write",
        "descriptor": bytes(range(64)).hex(),
        "record": record.hex(),
    }
    assert Failure(bytes(64), bytes([0x3E]) + bytes(31)).status == "status_0x3e"
    assert Failure(bytes(64), bytes(32)).status == "no_record"
    assert Failure.of(None) is None
