"""The page without a service: what is made of numbers, and of texts of others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.coordinator.states import queue_now
from pagecheck.model import Counts, RamBlock
from pagecheck.native import _native
from pagecheck.report.report import BlockReport
from pagecheck.service.now import Channel, Hold, queues
from pagecheck.service.page import recent as recent_
from pagecheck.service.page import tables, texts
from pagecheck.service.page.html import members, page
from pagecheck.service.page.rates import Rates, Throughput, percentile
from pagecheck.service.page.recent import Recent
from pagecheck.service.page.routes import is_ours
from pagecheck.service.page.tables import Row, Shown, Table
from pagecheck.shm.layout import STATS, STATS_WORDS
from tests.support.clock import MovedClock
from tests.support.service_page import Html


@pytest.mark.parametrize(
    ("given", "host", "ours"),
    [
        ("localhost", "127.0.0.1", True),
        ("LOCALHOST:9754", "127.0.0.1", True),
        ("127.0.0.1:9754", "127.0.0.1", True),
        ("127.9.9.9", "127.0.0.1", True),
        ("[::1]:9754", "127.0.0.1", True),
        ("[::1]", "::1", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1:80", "0.0.0.0", True),
        ("10.0.0.2", "10.0.0.1", False),
        ("[2001:db8::1]:1", "::", True),
        ("[2001:db8::1]:1", "::1", False),
        ("example.com", "0.0.0.0", False),
        ("localhost.example.com", "127.0.0.1", False),
        ("127.0.0.1.example.com", "127.0.0.1", False),
        ("127.0.0.1:80@example.com", "127.0.0.1", False),
        ("127.0.0.1:x", "127.0.0.1", False),
        ("[::1]x", "::1", False),
        ("[::1", "::1", False),
        ("", "127.0.0.1", False),
        (":80", "127.0.0.1", False),
        ("2130706433", "127.0.0.1", False),
        ("127.1", "127.0.0.1", False),
    ],
)
def test_which_host_is_meant_for_us(given: str, host: str, ours: bool) -> None:
    assert is_ours(given, host) == ours


@given(st.text(max_size=40))
def test_any_host_is_judged(given: str) -> None:
    assert is_ours(given, "127.0.0.1") in (True, False)


def latencies(**buckets: int) -> list[int]:
    words = [0] * STATS_WORDS
    first = STATS["latencies"].words.start
    for bucket, count in buckets.items():
        words[first + int(bucket[1:])] = count
    return words


def test_percentiles_are_upper_edges_of_their_buckets() -> None:
    first = _native.LATENCY_FIRST_NS / 1e9
    buckets = len(latencies()[STATS["latencies"].words])
    assert percentile([0] * buckets, 0.5) is None
    counts = [0] * buckets
    counts[3] = 98
    counts[7] = 1
    counts[9] = 1
    assert percentile(counts, 0.5) == first * 2**3
    assert percentile(counts, 0.98) == first * 2**3
    assert percentile(counts, 0.99) == first * 2**7
    assert percentile(counts, 1.0) == first * 2**9
    counts[-1] = 1000
    assert percentile(counts, 0.5) == float("inf")


def test_rates_are_of_the_last_seconds(moved_clock: MovedClock) -> None:
    rates = Rates()

    def words(checked: int) -> dict[str, list[int]]:
        found = [0] * STATS_WORDS
        found[STATS["bytes"].words.start] = checked
        return {"cpu": found}

    assert rates.since(words(1000)) == (0.0, {})
    moved_clock.sleep_s(4)
    seconds, lately = rates.since(words(1400))
    assert (seconds, Throughput.of(lately["cpu"]).checked) == (pytest.approx(4), 400)
    moved_clock.sleep_s(8)  # the first look is too old by now
    seconds, lately = rates.since(words(1500))
    assert (seconds, Throughput.of(lately["cpu"]).checked) == (pytest.approx(8), 100)
    moved_clock.sleep_s(100)
    assert rates.since(words(9999)) == (0.0, {})
    moved_clock.sleep_s(1)
    _seconds, lately = rates.since({**words(9999), "dsa": [1] * STATS_WORDS})  # a new engine
    assert Throughput.of(lately["dsa"]).checked == 1


HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x1b[2J\udc80\n"


def everything(text: str) -> Shown:
    row = Row(text, (text, text), "", (text, text, text))
    table = Table("scans", text, text, ("#Scan", "Picture"), text, [row])
    return Shown(text, text, [(text, text)], [table], None)


@given(st.text(max_size=30) | st.just(HOSTILE))
def test_any_text_stays_text(text: str) -> None:
    clean = texts.name(text)
    read = Html(page(everything(clean)))
    harmless = Html(page(everything("x")))
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in harmless.elements]
    assert [sorted(each) for _, each in read.elements] == [
        sorted(each) for _, each in harmless.elements
    ]
    assert clean.isprintable()
    assert members(everything(clean))["tables"]["scans"][0]["cells"] == [clean, clean]


def client(**other: Any) -> dict[str, Any]:
    blocks = [{"block": 0, "name": HOSTILE, "size": 1 << 30}]
    channels = [{"channel": 0, "worker": 7, "gone": True}]
    known = {"client": 3, "pid": 4242, "uid": 1717, "seconds": 1.5, "commands": 2}
    known |= {"doing": HOSTILE, "answer_bytes": 5, "blocks": blocks, "channels": channels}
    return {**known, **other}


@pytest.mark.parametrize("names", [False, True])
def test_who_clients_are_is_shown_only_where_that_was_asked_for(names: bool) -> None:
    (row,) = tables._clients([client()], names=names).rows
    text = " ".join(row.cells)
    assert ("4242" in text) == ("1717" in text) == names
    assert (texts.name(HOSTILE) in row.cells[1:3] or len(row.cells) == 10) == names
    assert "1 (1 gone)" in row.cells
    assert row.mood == "warn"
    assert text.isprintable()


def test_a_hold_past_its_bound() -> None:
    """Its watchdog has continued the VM by then, which is known a little later."""
    said = [tables._hold_state(Hold(1, "qmp:x", seconds, 2.0)) for seconds in (1.9, 2.1, 9, 9.1)]
    assert [mood for _state, mood in said] == ["", "", "", "bad"]
    assert [state for state, _mood in said] == [
        "within its bound",
        "its watchdog continues it",
        "its watchdog continues it",
        "held for too long",
    ]


def test_long_tables_end() -> None:
    rows = [Row(str(number), (str(number), "")) for number in range(1000)]
    table = tables._bounded(Table("x", "", "", ("a", "b"), "", rows))
    assert len(table.rows) == tables.ROWS + 1
    assert table.rows[-1].cells == ("700 more", "")


def channel(queue: str | None, word: int, state: str = "idle") -> Channel:
    words = [0] * STATS_WORDS
    words[STATS["descriptors"].words.start] = 10
    now = None if queue is None else queue_now(word)
    return Channel(0, 0, state, "dsa", queue, now, 1, 0, tuple(words))


def word(state: int, end: int = 0) -> int:
    return state | end << _native.QUEUE_END_SHIFT


UP = word(_native.QUEUE_UP)
FULL = word(_native.QUEUE_UP, _native.QUEUE_FULL)
DRAINING = word(_native.QUEUE_DRAINING, _native.QUEUE_LOST)
ABANDONED = word(_native.QUEUE_NONE, _native.QUEUE_DISABLED)


def test_queues_by_their_state() -> None:
    found = [channel("wq0.0", UP), channel("wq0.0", FULL), channel("wq1.0", DRAINING)]
    found += [channel("wq1.0", ABANDONED), channel(None, UP), channel("wq1.0", UP, "gone")]
    assert queues(found) == {"up": 1, "full": 1, "draining": 1, "abandoned": 1}
    one, other = tables._queues(found).rows
    assert one.cells[:4] == ("wq0.0", "full: others keep it full; up", "2", "20")
    assert other.cells[1] == "abandoned: it was disabled; draining: a record did not come"
    assert (one.mood, other.mood) == ("warn", "warn")
    (fine,) = tables._queues([channel("wq0.0", UP)]).rows
    assert (fine.cells[1], fine.mood) == ("up", "")


def scanned(kept: Recent, pages: int = 100, source: str = "ram") -> None:
    bits = memoryview(bytes(-(-pages // 64) * 8))
    block = BlockReport(
        RamBlock("ram", pages * 4096, 4096), Counts(pages=pages, undecided=pages), bits, bits
    )
    kept.add(1, source, "live", (block, block), pages * 4096, 0.5)


def test_scans_that_follow_each_other_fast_are_not_all_kept(moved_clock: MovedClock) -> None:
    kept = Recent()
    for _ in range(5):
        scanned(kept)
        moved_clock.sleep_s(0.06)
    assert [each.number for each in kept.all()] == [3, 2, 1]
    (scan, *_) = kept.all()
    assert scan.counts.pages == 200
    assert scan.pictures == (kept.picture(3, dark=False), kept.picture(3, dark=True))
    assert kept.picture(4, dark=False) is None


def test_what_is_kept_has_a_bound(moved_clock: MovedClock) -> None:
    kept = Recent()
    for _ in range(100):
        scanned(kept, source="x" * 100_000)
        moved_clock.sleep_s(1)
    assert len(kept.all()) == recent_.SCANS
    size = sum(len(b"".join(each.pictures)) + 4 * len(each.source) for each in kept.all())
    assert 0 < size <= recent_.KEPT_BYTES


def test_a_failure_of_a_picture_is_not_the_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> bytes:
        raise ValueError

    monkeypatch.setattr(recent_, "small_png", fail)
    kept = Recent()
    scanned(kept)
    (scan,) = kept.all()
    assert scan.pictures is None
    row = tables._scan(scan, kept.run, names=False)
    assert row.picture is None
    assert row.mood == "warn"  # pages are undecided


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (texts.span(0), "0 s"),
        (texts.span(2e-7), "200 ns"),
        (texts.span(1.5e-3), "1.5 ms"),
        (texts.span(59.9), "59.9 s"),
        (texts.span(61), "1 min 1 s"),
        (texts.span(3700), "1 h 1 min"),
        (texts.span(200_000), "2 d 7 h"),
        (texts.size(1023), "1,023 B"),
        (texts.size(1536), "1.5 KiB"),
        (texts.size(1 << 70), "1,048,576.0 PiB"),
        (texts.rate(None), texts.NONE),
        (texts.rate(1.25), "1.2/s"),
        (texts.rate(1024, "bytes"), "1.0 KiB/s"),
        (texts.at_most(float("inf")), "longer than counted"),
        (texts.share(1, 0), texts.NONE),
        (texts.share(0, 8), "0.0%"),
        (texts.share(8, 8), "100.0%"),
        (texts.share(1, 1 << 20), "under 0.1%"),
        (texts.share((1 << 20) - 1, 1 << 20), "over 99.9%"),
        (texts.moment(0), "1970-01-01 00:00:00"),
    ],
)
def test_numbers_as_people_read_them(text: str, shown: str) -> None:
    assert text == shown


def test_another_run_has_other_pictures() -> None:
    """A browser keeps its rows and what it has fetched while a service is started again."""
    rows = []
    for _ in range(2):
        kept = Recent()
        scanned(kept)
        rows.append(tables._scan(kept.all()[0], kept.run, names=False))
    assert rows[0].cells[0] == rows[1].cells[0] == "1"
    assert rows[0].key != rows[1].key
    assert set(rows[0].picture[:2]).isdisjoint(rows[1].picture[:2])
