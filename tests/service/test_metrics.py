"""What Prometheus gets: counters that rise by exactly what was checked, under proper names."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pagecheck.child.process import leave_behind
from pagecheck.coordinator import Coordinator
from pagecheck.service.limits import Limits
from pagecheck.service.metrics import ServiceCollector
from pagecheck.service.service import Service
from tests.support.command import assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.rams import PAGE
from tests.support.raw_client import RawClient, greeting_of
from tests.support.service import ServiceProcess, StartService

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
FIRST_BUCKET_S = 1024e-9


def address_of(service: ServiceProcess) -> str:
    return re.search(r"metrics on (http://\S+)", service.stderr_text())[1]


def scrape_text(address: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as reply:
        return reply.read().decode()


class Scraped:
    """One scrape."""

    def __init__(self, address: str) -> None:
        self.families = list(text_string_to_metric_families(scrape_text(address)))
        self.samples: Samples = {}
        for family in self.families:
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples.get((f"pagecheck_{name}", frozenset(labels.items())), 0.0)


@pytest.fixture
def measured(start_service: StartService) -> ServiceProcess:
    """A service with metrics on a free port."""
    return start_service("-v", "--engine", "cpu", "--metrics", "127.0.0.1:0")


@pytest.fixture
def address(measured: ServiceProcess) -> str:
    return address_of(measured)


def risen(before: Scraped, after: Scraped) -> dict[str, float]:
    """What rose by how much: by name and labels."""
    found = {}
    for (name, labels), value in after.samples.items():
        if name.endswith(("_total", "_count")):
            much = value - before.samples.get((name, labels), 0.0)
            if much:
                shown = ",".join(f"{k}={v}" for k, v in sorted(labels))
                found[f"{name.removeprefix('pagecheck_')}{{{shown}}}"] = much
    return found


def test_a_check_counts_exactly(
    measured: ServiceProcess, address: str, known_ram: KnownRam
) -> None:
    holes, zero = int(known_ram.hole.sum()), int(known_ram.zero.sum())
    with RawClient(measured.path) as client:
        client.receive()
        client.result("attach", {}, [known_ram.fd])
        before = Scraped(address)
        answer = client.result("check", {"block": 0})
        after = Scraped(address)
    assert answer["bytes_checked"] == (known_ram.pages - holes) * PAGE
    rose = risen(before, after)
    batches = rose.pop("batches_total{engine=cpu}")
    assert rose == {
        "pages_total{engine=cpu,result=zero}": zero - holes,
        "pages_total{engine=cpu,result=normal}": known_ram.pages - zero,
        "pages_total{engine=none,result=zero}": holes,
        "holes_total{engine=none}": holes,
        "checked_bytes_total{engine=cpu}": (known_ram.pages - holes) * PAGE,
        "batch_duration_seconds_count{engine=cpu}": batches,
        "commands_total{}": 1,
        "checks_total{}": 1,
    }
    assert batches >= (known_ram.pages - holes) / 512


def test_holes_that_workers_find_are_counted_too(
    measured: ServiceProcess, address: str, known_ram: KnownRam
) -> None:
    """In a check of selected pages the workers answer the holes."""
    with RawClient(measured.path) as client:
        client.receive()
        client.result("attach", {}, [known_ram.fd])
        before = Scraped(address)
        ranges = [{"first": 0, "count": 1000}]
        client.result("check", {"block": 0, "ranges": ranges})
        rose = risen(before, Scraped(address))
    assert rose["holes_total{engine=cpu}"] == int(known_ram.hole[:1000].sum())
    assert rose["pages_total{engine=cpu,result=zero}"] == int(known_ram.zero[:1000].sum())
    assert rose["pages_total{engine=cpu,result=normal}"] == int((~known_ram.zero[:1000]).sum())
    assert rose["checked_bytes_total{engine=cpu}"] == 1000 * PAGE
    assert "pages_total{engine=none,result=zero}" not in rose


def test_the_histogram_is_one(measured: ServiceProcess, address: str, known_ram: KnownRam) -> None:
    with RawClient(measured.path) as client:
        client.receive()
        client.result("attach", {}, [known_ram.fd])
        client.result("check", {"block": 0})
    scraped = Scraped(address)
    name = "pagecheck_batch_duration_seconds"
    buckets = {
        dict(labels)["le"]: value
        for (sample, labels), value in scraped.samples.items()
        if sample == f"{name}_bucket"
    }
    assert len(buckets) == 24
    ordered = sorted((float(edge), value) for edge, value in buckets.items())
    counts = [value for _edge, value in ordered]
    assert counts == sorted(counts)
    edges = [edge for edge, _value in ordered]
    assert edges[:-1] == pytest.approx([FIRST_BUCKET_S * 2**n for n in range(23)])
    assert edges[-1] == float("inf")
    total = scraped("batch_duration_seconds_count", engine="cpu")
    assert counts[-1] == total == scraped("batches_total", engine="cpu") > 0
    assert 0 < scraped("batch_duration_seconds_sum", engine="cpu") < 60 * total


def test_gauges_are_what_is_there_now(
    measured: ServiceProcess, address: str, known_ram: KnownRam
) -> None:
    with RawClient(measured.path) as client:
        client.receive()
        client.result("attach", {}, [known_ram.fd])
        client.result("open-channel")
        now = Scraped(address)
        found = {name: now(name) for name in ("clients", "blocks", "block_bytes", "channels")}
        assert found == {"clients": 1, "blocks": 1, "block_bytes": known_ram.size, "channels": 1}
        assert now("channels_opened_total") == 1
        client.result("close-channel", {"channel": 0})
        client.result("detach", {"block": 0})
        now = Scraped(address)
        assert (now("blocks"), now("block_bytes"), now("channels")) == (0, 0, 0)
        assert now("channels_lost_total") == 0
    assert now("workers") == 2
    build = next(labels for name, labels in now.samples if name == "pagecheck_build_info")
    assert dict(build)["engine"] == "cpu"


def test_errors_and_refusals_count(start_service: StartService) -> None:
    options = ("-v", "--metrics", "127.0.0.1:0", "--max-clients", 1)
    measured = start_service(*options)
    address = address_of(measured)
    with RawClient(measured.path) as client:
        client.receive()
        before = Scraped(address)
        client.error("no-such-command")
        client.error("check", {"block": 3})
        client.result("query-blocks")
        assert "error" in greeting_of(measured.path)
        rose = risen(before, Scraped(address))
    assert rose == {
        "commands_total{}": 3,
        "command_errors_total{}": 2,
        "clients_refused_total{}": 1,
    }


class Stuck:
    """Stands for a process that does not end until it is told to."""

    pid = 1
    ended: int | None = None

    def poll(self) -> int | None:
        return self.ended


def test_processes_that_do_not_end_are_measured() -> None:
    stuck = Stuck()
    with Coordinator(1, "cpu") as coordinator:
        assert coordinator.settings is not None
        service = Service(coordinator, coordinator.settings, Limits())

        def left() -> float:
            families = {each.name: each for each in ServiceCollector(service).collect()}
            (sample,) = families["pagecheck_left_processes"].samples
            return sample.value

        assert left() == 0
        leave_behind(stuck)
        try:
            assert left() == 1
        finally:
            stuck.ended = 0
        assert left() == 0
        service.close()


def test_names_follow_the_conventions(address: str) -> None:
    """Source: prometheus.io/docs/practices/naming."""
    text = scrape_text(address)
    types = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    helps = dict(re.findall(r"# HELP (\S+) (.+)", text))
    assert types
    assert types.keys() == helps.keys()
    for name, kind in types.items():
        assert re.fullmatch(r"pagecheck_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter"), name
        stem = name.removesuffix("_total")
        for unit in ("seconds", "bytes"):
            assert unit not in stem or stem.endswith(unit), name
        for unit in ("_ns", "_ms", "_us", "_kib", "_mib"):
            assert not stem.endswith(unit), name
        assert kind in ("counter", "gauge", "histogram"), name
        assert helps[name].endswith(".")
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= {"engine", "result", "le", "version", "kernel", "state"}


def test_metrics_end_with_the_service(measured: ServiceProcess, address: str) -> None:
    assert Scraped(address).families
    assert measured.stop() == 0
    with pytest.raises(OSError, match="refused"):
        scrape_text(address)


@pytest.mark.long(but="127")
@pytest.mark.parametrize(
    "bad", ["", "x", "9753", ":9753", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "host:1",
            "127.0.0.1:65536", "127.0.0.1:-1", "[::1]", "127.0.0.1:٣", "127.0.0.1: 1"]
)  # fmt: skip
def test_addresses_that_make_no_sense(bad: str, short_folder: Any) -> None:
    path = short_folder / "s"
    done = pagecheck("serve", "--socket", path, "--channels", 1, "--metrics", bad)
    assert_fails(done, 2, "--metrics")
    assert not path.exists()


def test_an_address_that_is_taken(address: str, short_folder: Any) -> None:
    path = short_folder / "other"
    taken = address.removeprefix("http://").removesuffix("/metrics")
    done = pagecheck("serve", "--socket", path, "--channels", 1, "--metrics", taken)
    assert_fails(done, 4, taken, "in use")
    assert not path.exists()


def test_the_documentation_has_every_metric(address: str) -> None:
    text = (Path(__file__).parents[2] / "docs/service.md").read_text()
    table = text[text.index("## Metrics") : text.index("Worth an alert")]
    documented = set(re.findall(r"`(pagecheck_\w+)`", table))
    assert documented == set(re.findall(r"# TYPE (\S+)", scrape_text(address)))
