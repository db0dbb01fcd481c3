"""What the page shows, as texts in tables: the same for HTML and for the script that updates it.

Danger: whoever reaches the address reads it. Decision: without `names` it has what the metrics
have, each client under a number, and how much of what was scanned is zero; neither who the clients
are nor what anything of theirs is called.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck._version import __version__
from pagecheck.service.now import Channel, Hold, channels, holds
from pagecheck.service.page import texts
from pagecheck.service.page.rates import Rates, Throughput
from pagecheck.shm.layout import statistic

if TYPE_CHECKING:
    from pagecheck.service.page.recent import Recent, Scan
    from pagecheck.service.service import Service

KNOWN_S: Final = 7.0  # after the bound of a pause, until the service knows that the VM runs
ROWS: Final = 300  # of a table; the last one then says how many more there are


class Row(NamedTuple):
    """One row.

    Attributes:
        key: unlike that of any other row of its table, as long as it is the same thing.
        mood: empty, `warn` or `bad`; a cell says in words why.
        picture: where its picture is, as the page links to it, for a light and a dark ground, and
            what it shows; or None.
    """

    key: str
    cells: tuple[str, ...]
    mood: str = ""
    picture: tuple[str, str, str] | None = None


class Table(NamedTuple):
    """One table.

    Attributes:
        key: the id of its section.
        columns: what is in them; one that holds numbers begins with a `#`, which is not shown.
        empty: what is said where there is no row.
    """

    key: str
    title: str
    note: str
    columns: tuple[str, ...]
    empty: str
    rows: list[Row]


class Shown(NamedTuple):
    """Everything on the page.

    Attributes:
        run: as of `Recent`.
        facts: name and value of each.
        checked: bytes that were checked in a second, of the last ones; None: not known yet.
    """

    run: str
    at: str
    facts: list[tuple[str, str]]
    tables: list[Table]
    checked: float | None


def shown(service: Service, recent: Recent, rates: Rates, *, names: bool) -> Shown:
    """What there is to be seen now."""
    words = service.counters.words()
    seconds, lately = rates.since(words)
    checked = sum(statistic(each, "bytes") for each in lately.values())
    found = channels(service)
    clients = [each.describe() for each in service.clients.all()]
    tables = [
        _holds(service, names=names),
        _throughput(words, seconds, lately),
        _channels(found),
        _queues(found),
        _clients(clients, names=names),
        _scans(recent, names=names),
    ]
    facts = _facts(service, clients)
    return Shown(
        recent.run,
        f"{texts.moment(time.time())} UTC",
        facts,
        [_bounded(each) for each in tables],
        checked / seconds if seconds else None,
    )


def _bounded(table: Table) -> Table:
    more = len(table.rows) - ROWS
    if more <= 0:
        return table
    last = Row("more", (f"{texts.number(more)} more", *[""] * (len(table.columns) - 1)))
    return table._replace(rows=[*table.rows[:ROWS], last])


def _facts(service: Service, clients: list[dict[str, Any]]) -> list[tuple[str, str]]:
    coordinator, number = service.coordinator, service.counters.number
    blocks = [block for each in clients for block in each["blocks"]]
    return [
        ("Version", __version__),
        ("Up for", texts.span(time.time() - service.started)),
        ("Engine", coordinator.engine),
        ("CPU kernel", coordinator.kernel or texts.NONE),
        ("Workers replaced", texts.number(service.workers_replaced)),
        ("Waiting for a worker", texts.number(coordinator.waiting)),
        ("Clients", f"{len(clients)} of {service.limits.clients}"),
        ("Blocks", f"{len(blocks)}, {texts.size(sum(block['size'] for block in blocks))}"),
        ("Memory of answers", texts.size(service.answers.bytes_kept())),
        ("Commands", texts.number(number("commands"))),
        ("of which failed", texts.number(number("errors"))),
        ("Checks", texts.number(number("checks"))),
        ("Saves", f"{texts.number(number('saves'))}, {texts.size(number('saved_bytes'))}"),
        ("Punches", f"{texts.number(number('punches'))}, {texts.size(number('punched_bytes'))}"),
        ("VM pauses", f"{texts.number(number('pauses'))}, {texts.span(number('pause_seconds'))}"),
        ("Channels lost", texts.number(number("channels_lost"))),
        ("Clients refused", texts.number(number("clients_refused"))),
    ]


def _holds(service: Service, *, names: bool) -> Table:
    rows = []
    for index, each in enumerate(holds(service)):
        state, mood = _hold_state(each)
        vm = texts.name(each.text)
        who = (f"client {each.client}", *([vm] if names else []))
        times = (texts.span(each.seconds), texts.span(each.most))
        rows.append(Row(f"{each.client} {index}", (*who, *times, state), mood))
    return Table(
        "holds",
        "VMs on hold",
        "Stopped for a check, a save or a punch; continued at the latest at the bound.",
        ("For", *(["VM"] if names else []), "#Stopped for", "#Bound", "State"),
        "No VM is stopped.",
        rows,
    )


def _hold_state(hold: Hold) -> tuple[str, str]:
    """What is said of it, and the mood of its row."""
    if hold.seconds <= hold.most:
        return "within its bound", ""
    if hold.seconds <= hold.most + KNOWN_S:
        return "its watchdog continues it", ""
    return "held for too long", "bad"


def _throughput(words: dict[str, list[int]], seconds: float, lately: dict[str, list[int]]) -> Table:
    rows = []
    for engine, each in sorted(words.items()):
        ever = Throughput.of(each)
        now = Throughput.of(lately[engine]) if seconds else None
        rows.append(
            Row(
                engine,
                (
                    engine,
                    texts.rate(now and now.batches / seconds),
                    texts.rate(now and now.pages / seconds),
                    texts.rate(now and now.checked / seconds, "bytes"),
                    texts.at_most(now and now.p50),
                    texts.at_most(now and now.p99),
                    texts.number(ever.batches),
                    texts.size(ever.checked),
                    texts.at_most(ever.p50),
                    texts.at_most(ever.p99),
                ),
            )
        )
    return Table(
        "throughput",
        "Throughput and latency",
        "Of batches in their workers: in the last seconds, then since the service was started.",
        (
            *("Engine", "#Batches", "#Pages", "#Checked", "#p50", "#p99"),
            *("#Batches ever", "#Checked ever", "#p50 ever", "#p99 ever"),
        ),
        "No worker has counted anything yet.",
        rows,
    )


def _channels(found: list[Channel]) -> Table:
    moods = {"lost": "bad", "gone": "bad", "resting": "warn"}
    rows = [
        Row(
            f"{each.client}.{each.number}",
            (
                f"client {each.client}, channel {each.number}"
                if each.client
                else f"worker {each.number}",
                each.state,
                each.engine,
                texts.NONE if each.queue is None else texts.name(each.queue),
                str(each.pid) if each.pid else texts.NONE,
                texts.number(each.replaced),
            ),
            moods.get(each.state, "warn" if each.replaced else ""),
        )
        for each in found
    ]
    return Table(
        "channels",
        "Channels",
        "Workers for checks by command, then direct channels of clients.",
        ("Channel", "State", "Engine", "Work queue", "#Process", "#Workers replaced"),
        "There is no channel.",
        rows,
    )


def _queues(found: list[Channel]) -> Table:
    used: dict[str, list[Channel]] = {}
    for each in found:
        if each.queue is not None and each.queue_now is not None and each.state != "gone":
            used.setdefault(each.queue, []).append(each)
    rows = []
    for queue, those in sorted(used.items()):
        states = sorted({each.queue_now for each in those if each.queue_now is not None})
        said = "; ".join(f"{now.state}: {now.why}" if now.why else now.state for now in states)
        counts = [
            texts.number(sum(statistic(each.words, counted) for each in those))
            for counted in ("descriptors", "page_faults", "timeouts", "queue_full")
        ]
        mood = "warn" if any(now.why for now in states) else ""
        rows.append(Row(queue, (texts.name(queue), said, str(len(those)), *counts), mood))
    return Table(
        "queues",
        "Work queues",
        "Of Intel DSA; pages of an abandoned one are decided by the CPU.",
        (
            *("Queue", "State", "#Channels", "#Descriptors", "#Page faults"),
            *("#Not answered in time", "#Left full"),
        ),
        "No channel uses a work queue.",
        rows,
    )


def _clients(clients: list[dict[str, Any]], *, names: bool) -> Table:
    rows = []
    for each in clients:
        size = sum(block["size"] for block in each["blocks"])
        named = ", ".join(texts.name(block["name"]) for block in each["blocks"])
        gone = sum(channel["gone"] for channel in each["channels"])
        who = [str(each["pid"]), str(each["uid"])] if names else []
        rows.append(
            Row(
                str(each["client"]),
                (
                    f"client {each['client']}",
                    *who,
                    texts.span(each["seconds"]),
                    texts.number(each["commands"]),
                    texts.name(each["doing"] or texts.NONE),
                    f"{len(each['blocks'])}, {texts.size(size)}",
                    *([texts.name(named or texts.NONE)] if names else []),
                    f"{len(each['channels'])}" + (f" ({gone} gone)" if gone else ""),
                    texts.size(each["answer_bytes"]),
                ),
                "warn" if gone else "",
            )
        )
    return Table(
        "clients",
        "Clients",
        "Those that are connected.",
        (
            *("Client", *(["#Process", "#User"] if names else [])),
            *("#Connected for", "#Commands", "Running", "#Blocks"),
            *(["Names"] if names else []),
            *("#Direct channels", "#Memory of answers"),
        ),
        "No client is connected.",
        rows,
    )


def _scans(recent: Recent, *, names: bool) -> Table:
    return Table(
        "scans",
        "Last scans",
        "Of whole blocks; each picture is the memory from its first page to its last.",
        (
            *("Scan", "Ended (UTC)", "By", *(["Source"] if names else []), "Answer", "Picture"),
            *("#Pages", "#Zero", "#of which holes", "#Normal", "#Undecided", "#Took", "#Checked"),
        ),
        "No scan has ended yet.",
        [_scan(each, recent.run, names=names) for each in recent.all()],
    )


def _scan(scan: Scan, run: str, *, names: bool) -> Row:
    counts = scan.counts
    zero = texts.share(counts.zero, counts.pages)
    normal = texts.share(counts.normal, counts.pages)
    undecided = texts.share(counts.undecided, counts.pages)
    picture = None
    if scan.pictures is not None:
        said = f"Scan {scan.number}: {zero} zero, {normal} normal, {undecided} undecided"
        at = f"picture/{scan.number}"
        picture = (f"{at}.png?{run}", f"{at}-dark.png?{run}", said)
    return Row(
        f"{run} {scan.number}",
        (
            str(scan.number),
            texts.moment(scan.at),
            f"client {scan.client}",
            *([scan.source] if names else []),
            scan.answer,
            "" if picture else texts.NONE,
            texts.number(counts.pages),
            zero,
            texts.share(counts.hole, counts.pages),
            normal,
            undecided,
            texts.span(scan.seconds),
            texts.rate(scan.checked / scan.seconds if scan.seconds else None, "bytes"),
        ),
        "warn" if counts.undecided else "",
        picture,
    )
