"""The service's counters as Prometheus metrics, computed for each scrape."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pagecheck._version import __version__
from pagecheck.child.process import reap_left_behind
from pagecheck.native import _native
from pagecheck.service.http import Page, Request
from pagecheck.service.now import channels, holds, queues
from pagecheck.shm.layout import statistic, statistic_array

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pagecheck.service.http import Routes
    from pagecheck.service.service import Service

FIRST_BUCKET_S: Final = _native.LATENCY_FIRST_NS / 1e9

# Metric, what it is, and the word of `layout.STATS` it comes from; each by engine.
BY_ENGINE: Final = (
    ("checked_bytes", "Bytes of the pages that workers decided.", "bytes"),
    ("holes", "Pages answered as zero because their file has a hole there.", "holes"),
    ("batches", "Batches that workers answered.", "answered"),
    ("refused_batches", "Batches that a worker refused as invalid.", "refused"),
    ("fallback_pages", "Pages meant for a device that the CPU decided.", "pages_completed"),
    ("device_pages", "Pages decided by a device.", "pages_device"),
    ("descriptors", "Descriptors that a work queue took.", "descriptors"),
    ("page_faults", "Page faults that a device reported.", "page_faults"),
    ("timeouts", "Submissions that a device did not answer in time.", "timeouts"),
    ("queue_full", "Submissions abandoned because a work queue stayed full.", "queue_full"),
)
# The same for the whole service: metric, what it is, and the counter's name.
PLAIN: Final = (
    ("clients_accepted", "Clients that were accepted.", "clients_accepted"),
    ("clients_refused", "Clients that were refused.", "clients_refused"),
    ("commands", "Commands of clients.", "commands"),
    ("command_errors", "Commands that were answered with an error.", "errors"),
    ("checks", "Commands that checked blocks.", "checks"),
    ("saves", "Commands that saved a VM.", "saves"),
    ("saved_bytes", "Bytes of RAM that were written for saves.", "saved_bytes"),
    ("punches", "Commands that punched a VM's RAM.", "punches"),
    ("punched_bytes", "Bytes of RAM that were made holes.", "punched_bytes"),
    ("channels_opened", "Direct channels that were opened.", "channels_opened"),
    ("channels_lost", "Direct channels whose worker died or hung.", "channels_lost"),
    ("vm_pauses", "Times that a VM was stopped.", "pauses"),
    ("vm_pause_seconds", "Time that VMs were stopped.", "pause_seconds"),
)


class ServiceCollector(Collector):
    """Reads the counters once per scrape."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        """Yields every metric."""
        words = self._service.counters.words()
        yield self._pages(words)
        for name, text, field in BY_ENGINE:
            family = CounterMetricFamily(f"pagecheck_{name}", text, labels=["engine"])
            for engine, each in words.items():
                family.add_metric([engine], statistic(each, field))
            if field == "holes":  # those that no worker had to be asked about
                family.add_metric(["none"], self._service.counters.number("holes"))
            yield family
        yield self._latency(words)
        for name, text, counter in PLAIN:
            number = self._service.counters.number(counter)
            yield CounterMetricFamily(f"pagecheck_{name}", text, value=number)
        yield from self._now()

    def _pages(self, words: dict[str, list[int]]) -> Metric:
        family = CounterMetricFamily(
            "pagecheck_pages", "Pages that were answered.", labels=["engine", "result"]
        )
        for engine, each in words.items():
            for result in ("zero", "normal", "undecided"):
                family.add_metric([engine, result], statistic(each, result))
        # The coordinator answers holes that it finds before a worker has to.
        family.add_metric(["none", "zero"], self._service.counters.number("holes"))
        return family

    def _latency(self, words: dict[str, list[int]]) -> Metric:
        family = HistogramMetricFamily(
            "pagecheck_batch_duration_seconds",
            "From the beginning of a batch in its worker to its answer.",
            labels=["engine"],
        )
        for engine, each in words.items():
            buckets: list[tuple[str, float]] = []
            total = 0
            counts = statistic_array(each, "latencies")
            for index, count in enumerate(counts):
                total += count
                last = index == len(counts) - 1
                buckets.append(("+Inf" if last else f"{FIRST_BUCKET_S * 2**index:.9g}", total))
            family.add_metric([engine], buckets, sum_value=statistic(each, "latency_ns") / 1e9)
        return family

    def _now(self) -> Iterable[Metric]:
        service = self._service
        held = holds(service)
        clients = service.clients.all()
        blocks = [held for each in clients for held in list(each.resources.blocks.values())]
        gauges = (
            ("clients", "Clients that are connected.", len(clients)),
            ("blocks", "RAM blocks that are attached.", len(blocks)),
            ("block_bytes", "Bytes of them.", sum(held.block.ram.size for held in blocks)),
            ("answer_bytes", "Memory of answers that are kept.", service.answers.bytes_kept()),
            ("channels", "Direct channels.", sum(len(each.resources.channels) for each in clients)),
            ("workers", "Workers for checks by command.", service.coordinator.channels),
            ("vms_on_hold", "VMs that are stopped by the service.", len(held)),
            (
                "vm_hold_seconds",
                "For how long the longest of them has been stopped.",
                max((each.seconds for each in held), default=0.0),
            ),
            (
                "vm_hold_limit_seconds",
                "The longest that a VM may be stopped.",
                service.limits.pause_seconds,
            ),
            (
                "left_processes",
                "Watchdogs of VMs that are not continued, and workers that do not end.",
                reap_left_behind(),
            ),
            ("start_time_seconds", "When the service was started.", service.started),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(f"pagecheck_{name}", text, value=value)
        yield self._queues()
        yield CounterMetricFamily(
            "pagecheck_worker_restarts",
            "Workers that died or hung and were replaced.",
            value=service.workers_replaced,
        )
        build = {
            "version": __version__,
            "engine": service.coordinator.engine,
            "kernel": service.coordinator.kernel or "none",
        }
        yield InfoMetricFamily("pagecheck_build", "What runs here.", value=build)

    def _queues(self) -> Metric:
        family = GaugeMetricFamily(
            "pagecheck_queues", "Channels with a work queue, by what it does.", labels=["state"]
        )
        for state, count in queues(channels(self._service)).items():
            family.add_metric([state], count)
        return family


def metrics_routes(service: Service) -> Routes:
    """The metrics, for `HttpServer`."""
    registry = CollectorRegistry()
    registry.register(ServiceCollector(service))

    def compute(request: Request) -> Page:
        encode, media_type = choose_encoder(request.value("accept"))
        return Page(media_type, encode(registry))

    return {"/": compute, "/metrics": compute}
