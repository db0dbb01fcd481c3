"""The page of a running service: it shows what there is, and nothing that it should not."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck import Client
from tests.service.test_metrics import Scraped, address_of
from tests.support.api_vmm import api_vmm
from tests.support.command import assert_fails, pagecheck
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService, services
from tests.support.service_page import OPTIONS, Web, attached
from tests.support.waiting import wait_for

CLIENT = "client 2"  # the first one saw whether it greets
HOSTILE = "<script>alert('&\"')</script>"


@pytest.fixture
def shown(start_service: StartService) -> ServiceProcess:
    """A service with a page on a free port."""
    return start_service(*OPTIONS)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The page of a service that scanned once; for tests that change nothing."""
    ram = KnownRam(64)
    with services(tmp_path_factory.mktemp("s")) as start:
        service = start(*OPTIONS)
        with attached(service, ram) as client:
            client.result("check", {"block": 0})
            yield Web(service)
    ram.close()


def percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


def test_a_scan_is_shown_with_its_picture(shown: ServiceProcess, known_ram: KnownRam) -> None:
    web = Web(shown)
    assert web.rows("scans") == []
    assert "No scan has ended yet." in web.html().text
    with attached(shown, known_ram) as client:
        client.result("check", {"block": 0})
        client.result("check", {"block": 0, "ranges": [{"first": 0, "count": 9}]})
    (row,) = wait_for(lambda: web.rows("scans"), "the scan")
    pages, zero = known_ram.pages, int(known_ram.zero.sum())
    expected = {
        "Scan": "1",
        "By": CLIENT,
        "Answer": "live",
        "Pages": f"{pages:,}",
        "Zero": percent(zero, pages),
        "of which holes": percent(int(known_ram.hole.sum()), pages),
        "Normal": percent(pages - zero, pages),
        "Undecided": "0.0%",
    }
    assert {key: row[key] for key in expected} == expected
    (image,) = (attributes for tag, attributes in web.html().elements if tag == "img")
    assert image["alt"] == (
        f"Scan 1: {expected['Zero']} zero, {expected['Normal']} normal, 0.0% undecided"
    )
    (dark,) = (attributes for tag, attributes in web.html().elements if tag == "source")
    assert dark["media"] == "(prefers-color-scheme: dark)"
    bodies = set()
    for place in (image["src"], dark["srcset"]):
        answer, body = web.ask(f"/{place}")
        assert answer.getheader("Content-Type") == "image/png"
        assert body.startswith(b"\x89PNG\r\n\x1a\n")
        bodies.add(body)
    assert len(bodies) == 2


def test_a_save_is_shown_too(shown: ServiceProcess, short_folder: Path) -> None:
    web = Web(shown)
    with api_vmm("fc", short_folder / "api", shared=True) as vmm, Client(shown.path) as client:
        saved = client.save(vmm.source, short_folder / "saved", disks="none")
    (row,) = wait_for(lambda: web.rows("scans"), "the save")
    assert row["Answer"] == "saved"
    counts = saved.blocks[0].counts
    assert row["Pages"] == f"{counts.pages:,}"
    assert row["Normal"] == percent(counts.normal, counts.pages)


def test_what_is_there_is_shown(shown: ServiceProcess, known_ram: KnownRam) -> None:
    web = Web(shown)
    with attached(shown, known_ram) as client:
        client.result("open-channel")
        workers = [str(each.pid) for each in shown.children()]
        (row,) = wait_for(lambda: web.rows("clients"), "the client")
        assert row["Client"] == CLIENT
        assert row["Commands"] == "2"
        assert row["Blocks"] == "1, 16.0 MiB"
        assert row["Direct channels"] == "1"
        channels = web.rows("channels")
        assert [each["Channel"] for each in channels] == [
            *("worker 0", "worker 1", f"{CLIENT}, channel 0"),
        ]
        assert {each["Engine"] for each in channels} == {"cpu"}
        assert {each["State"] for each in channels} == {"idle", "open"}
        assert sorted(each["Process"] for each in channels) == sorted(workers)
        client.result("check", {"block": 0})
        wait_for(lambda: web.html().facts["Checks"] == "1", "the check")
        (engine,) = web.rows("throughput")
        assert engine["Engine"] == "cpu"
        assert re.fullmatch(r"≤ [\d.]+ (µs|ms|s)", engine["p99 ever"])
        facts = web.html().facts
        assert facts["Blocks"] == "1, 16.0 MiB"
        assert facts["Clients"] == "1 of 32"
    wait_for(lambda: web.rows("clients") == [], "the client gone")
    assert web.rows("queues") == []


def test_the_rate_is_of_the_last_seconds(shown: ServiceProcess, known_ram: KnownRam) -> None:
    web = Web(shown)
    with attached(shown, known_ram) as client:
        web.data()

        def checked() -> bool:
            client.result("check", {"block": 0})
            return bool(web.data()["checked"])

        wait_for(checked, "a rate")
        (row,) = web.rows("throughput")
    assert row["Checked"].endswith("iB/s")
    assert row["p99"].startswith("≤ ")


def test_a_worker_that_is_replaced_is_shown(shown: ServiceProcess, known_ram: KnownRam) -> None:
    web = Web(shown)
    with attached(shown, known_ram) as client:
        for each in shown.children():
            os.kill(each.pid, signal.SIGKILL)
        client.result("check", {"block": 0})

        def replaced() -> int:
            return sum(int(row["Workers replaced"]) for row in web.rows("channels"))

        wait_for(replaced, "a worker that was replaced")
        assert "warn" in [each["mood"] for each in web.data()["tables"]["channels"]]


def test_a_queue_is_shown_and_measured(start_service: StartService, known_ram: KnownRam) -> None:
    """By the software device: one that works, then one that neither answers nor closes."""
    states = ("up", "full", "draining", "abandoned")
    lost = "draining: a record did not come"
    for faults, state in (("", "up"), ("faults=stuck-close", lost)):
        options = ("-v", "--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
        service = start_service(*options, "--engine", "dsa", "--wq", f"model:{faults}")
        web = Web(service)
        with attached(service, known_ram) as client:
            client.result("check", {"block": 0})
            client.result("open-channel")
            measured = Scraped(address_of(service))
            (row,) = web.rows("queues")
        assert row["Queue"] == f"model:{faults}"
        assert row["Channels"] == "2"
        assert state in row["State"]
        assert measured("queues", state=state.partition(":")[0]) >= 1
        assert sum(measured("queues", state=each) for each in states) == 2
        assert service.stop() == 0


def test_a_vm_on_hold_is_shown_and_measured(
    start_service: StartService, short_folder: Path
) -> None:
    service = start_service(*OPTIONS, "--http-names", "--metrics", "127.0.0.1:0")
    web = Web(service)
    with api_vmm("fc", short_folder / "api") as vmm:
        with RawClient(service.path) as client:
            client.receive()
            client.result("attach", {"source": vmm.source})
            assert web.rows("holds") == []
            asked = {"block": 0, "pause": True, "max_rate": 1 << 20, "max_pause": 4.0}
            client.send({"execute": "check", "arguments": asked})
            (hold,) = wait_for(lambda: web.data()["tables"]["holds"], "a VM on hold")
            assert hold["cells"][:2] == [CLIENT, vmm.source]
            assert hold["cells"][3:] == ["4 s", "within its bound"]
            now = Scraped(address_of(service))
            assert now("vms_on_hold") == 1
            assert 0 < now("vm_hold_seconds") < 4
            assert now("vm_hold_limit_seconds") == 5
        wait_for(lambda: web.rows("holds") == [], "the VM continued")
        assert vmm.runs()
    now = Scraped(address_of(service))
    assert (now("vms_on_hold"), now("vm_hold_seconds")) == (0, 0)


@pytest.mark.parametrize("names", [False, True])
def test_names_are_shown_where_they_were_asked_for(
    start_service: StartService, known_ram: KnownRam, names: bool
) -> None:
    service = start_service(*OPTIONS, *(["--http-names"] if names else []))
    web = Web(service)
    with attached(service, known_ram, name=HOSTILE) as client:
        client.result("check", {"block": 0})
        scan = wait_for(lambda: web.rows("scans"), "the scan")[0]
        (row,) = web.rows("clients")
        text = web.html().text
    assert (row.get("Names") == HOSTILE) == names
    assert (row.get("Process") == str(os.getpid())) == names
    assert (scan.get("Source") == HOSTILE) == names
    assert "alert" in text if names else "alert" not in text
    assert HOSTILE not in text
    assert text.count("<script") == 1  # our own


def test_the_page_keeps_to_its_own_policy(scanned: Web) -> None:
    """No inline script or style, nothing from elsewhere: a browser would refuse it."""
    page = scanned.html()
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for link in map(attributes.get, ("src", "srcset", "href")):
            if link and link != "data:,":
                assert ":" not in link
                assert not link.startswith("/")
                assert scanned.ask(f"/{link}")[0].status == 200
        assert tag not in ("style", "form", "iframe", "object", "base")
    script = scanned.ask("/page.js")[1].decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval", "http:"):
        assert word not in script
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for named in re.findall(r'getElementById\("([\w-]+)"\)', script):
        assert named in ids


def test_a_name_that_leads_here_is_refused(scanned: Web) -> None:
    """DNS rebinding: a browser sends the attacker's name as Host."""
    for path in ("/", "/data.json", "/page.js", "/page.css", "/picture/1.png"):
        answer, body = scanned.ask(path, Host="attacker.example:9754")
        assert answer.status == 403
        assert b"localhost" in body
        assert scanned.ask(path, Host="localhost:1")[0].status == 200


def test_what_is_not_there(scanned: Web) -> None:
    pictures = (
        "x.png",
        "1.svg",
        "",
        "%31.png",
        "9" * 5000 + ".png",
        "-1.png",
        "-dark.png",
        "2.png",
        "1/1.png",
    )
    assert scanned.ask("/picture/1.png")[0].status == 200
    for path in (*(f"/picture/{each}" for each in pictures), "/page.py", "/metrics", "/index.html"):
        assert scanned.ask(path)[0].status == 404


def test_the_last_scans_are_few_and_count_as_memory(
    start_service: StartService, known_ram: KnownRam
) -> None:
    service = start_service(*OPTIONS, "--metrics", "127.0.0.1:0")
    web = Web(service)
    assert Scraped(address_of(service))("answer_bytes") == 128 << 10
    with attached(service, known_ram) as client:

        def scanned() -> bool:
            client.result("check", {"block": 0})
            rows = web.data()["tables"]["scans"]
            return bool(rows) and int(rows[0]["cells"][0]) > 16

        wait_for(scanned, "many scans")
    rows = web.rows("scans")
    assert len(rows) == 16
    numbers = [int(row["Scan"]) for row in rows]
    assert numbers == sorted(numbers, reverse=True)
    assert web.ask(f"/picture/{numbers[-1]}.png")[0].status == 200
    assert web.ask("/picture/1.png")[0].status == 404


def test_one_address_has_both(start_service: StartService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    at = f"127.0.0.1:{port}"
    service = start_service("-v", "--engine", "cpu", "--http", at, "--metrics", at)
    assert Web(service).rows("clients") == []
    assert Scraped(f"http://{at}/metrics")("workers") == 2


def test_by_ipv6_too(start_service: StartService) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this host")
    service = start_service("-v", "--engine", "cpu", "--http", "[::1]:0")
    assert Web(service).ask("/")[0].status == 200


def test_names_without_a_page_are_refused(short_folder: Path) -> None:
    done = pagecheck("serve", "--socket", short_folder / "s", "--http-names")
    assert_fails(done, 2, "--http-names: goes with --http")


def test_an_address_that_is_invalid(short_folder: Path) -> None:
    done = pagecheck("serve", "--socket", short_folder / "s", "--http", "example.com:80")
    assert_fails(done, 2, "--http example.com:80")
    assert not (short_folder / "s").exists()


def test_an_address_that_is_taken(scanned: Web, short_folder: Path) -> None:
    path = short_folder / "other"
    done = pagecheck("serve", "--socket", path, "--channels", 1, "--http", scanned.address)
    assert_fails(done, 4, f"--http {scanned.address}", "in use")
    assert not path.exists()


def test_it_ends_with_the_service(shown: ServiceProcess) -> None:
    web = Web(shown)
    assert web.ask("/")[0].status == 200
    assert shown.stop() == 0
    with pytest.raises(OSError, match="refused"):
        web.ask("/")
