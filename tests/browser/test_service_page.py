"""The page of `pagecheck serve --http` in a browser: live, and nothing of others runs in it."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from pagecheck.picture.palette import cell_colour
from pagecheck.picture.strip import cell_pages
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess, StartService
from tests.support.service_fixtures import short_folder, start_service
from tests.support.service_page import OPTIONS, Web, attached
from tests.support.waiting import wait_for

__all__ = ["short_folder", "start_service"]

HOSTILE = "</script><script>document.title = 'taken'</script><img src=x onerror=alert(1)>&lt;"


@pytest.fixture
def known_ram() -> Iterator[KnownRam]:
    ram = KnownRam(shares=[0.3, 0.3, 0.1, 0.1, 0.1, 0.1])
    yield ram
    ram.close()


def address_of(service: ServiceProcess) -> str:
    return f"http://{Web(service).address}/"


def scans(page) -> list[str]:
    return page.locator("#scans tbody th").all_text_contents()


def wait_for_scan(page, number: int) -> None:
    page.locator("#scans tbody th", has_text=re.compile(rf"^{number}$")).wait_for()


@pytest.mark.long(but=("360-dark", "1600-light"))
def test_looks_right_everywhere(
    visit, look, start_service: StartService, known_ram: KnownRam
) -> None:
    service = start_service(*OPTIONS, "--http-names")
    with attached(service, known_ram, name=HOSTILE) as client:
        client.result("open-channel")
        client.result("check", {"block": 0})
        seen = visit(address_of(service), *look)
        wait_for_scan(seen.page, 1)
        seen.page.get_by_text("Updated every second.").wait_for()
        seen.shot("service")
        assert seen.serious() == []
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= look[0]
        assert seen.reached_by_tab() == seen.can_be_used()


def test_what_happens_is_shown_without_reloading(
    visit, start_service: StartService, known_ram: KnownRam
) -> None:
    service = start_service(*OPTIONS)
    page = visit(address_of(service)).page
    assert page.get_by_text("No scan has ended yet.").is_visible()
    page.evaluate("window.same = true")
    page.get_by_role("button", name="Pause updates").focus()
    with attached(service, known_ram) as client:
        client.result("check", {"block": 0})
        wait_for_scan(page, 1)
        assert page.get_by_text("No scan has ended yet.").is_hidden()
        row = page.locator("#scans tbody tr").first.text_content()
        assert f"{known_ram.pages:,}" in row
        assert f"{int(known_ram.zero.sum()) / known_ram.pages:.1%}" in row
        client.result("check", {"block": 0})
        wait_for_scan(page, 2)
    page.locator("#clients .empty").wait_for()
    assert page.locator("#clients tbody tr").count() == 0
    assert scans(page) == ["2", "1"]
    assert page.evaluate("window.same && document.activeElement.id") == "pause"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_picture_shows_what_is_in_the_memory(
    visit, start_service: StartService, known_ram: KnownRam, scheme: str
) -> None:
    service = start_service(*OPTIONS)
    page = visit(address_of(service), scheme=scheme).page
    with attached(service, known_ram) as client:
        client.result("check", {"block": 0})
        wait_for_scan(page, 1)
        pixels = page.locator("#scans img").first.evaluate(
            """async (image) => {
                await image.decode();
                const pen = new OffscreenCanvas(image.naturalWidth, 1).getContext("2d");
                pen.drawImage(image, 0, 0);
                const all = pen.getImageData(0, 0, image.naturalWidth, 1).data;
                return Array.from({ length: image.naturalWidth }, (_, x) => "#" + [0, 1, 2]
                    .map((at) => all[4 * x + at].toString(16).padStart(2, "0")).join(""));
            }"""
        )
    each = cell_pages(known_ram.pages, 128)
    cells = []
    for first in range(0, known_ram.pages, each):
        hole, zero = (int(a[first : first + each].sum()) for a in (known_ram.hole, known_ram.zero))
        counts = [zero - hole, hole, each - zero, 0, 0]
        cells.append(cell_colour(counts, dark=scheme == "dark"))
    assert pixels == np.repeat(cells, len(pixels) // len(cells)).tolist()


def test_updates_can_be_paused(visit, start_service: StartService, known_ram: KnownRam) -> None:
    service = start_service(*OPTIONS)
    page = visit(address_of(service)).page
    page.get_by_text("Updated every second.").wait_for()
    pause = page.get_by_role("button", name="Pause updates")
    pause.press("Enter")
    assert pause.get_attribute("aria-pressed") == "true"
    assert page.locator("#status").text_content().startswith("Paused; this is as of ")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    with attached(service, known_ram) as client:
        client.result("check", {"block": 0})
        # The page has a scan shortly after its client has the answer.
        wait_for(lambda: len(Web(service).rows("scans")) == 1, "the scan is told")
        page.wait_for_timeout(1500)  # longer than between two updates
        assert (asked, scans(page)) == ([], [])
        pause.press("Space")
        wait_for_scan(page, 1)


def test_a_service_that_ended_is_missed(visit, start_service: StartService) -> None:
    service = start_service(*OPTIONS)
    seen = visit(address_of(service))
    seen.page.get_by_text("Updated every second.").wait_for()
    assert service.stop() == 0
    seen.forgive("ERR_CONNECTION_REFUSED")
    seen.page.get_by_text("The service does not answer; this is as of ").wait_for()
    assert seen.serious() == []


def test_the_next_run_of_a_service_has_its_own_page(visit, start_service: StartService) -> None:
    """It may show something else: another version, other options."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("-v", "--engine", "cpu", "--http", at)
    service = start_service(*options)
    seen = visit(address_of(service))
    seen.page.get_by_text("Updated every second.").wait_for()
    assert service.stop() == 0
    seen.forgive("ERR_CONNECTION_REFUSED")
    with RawClient(start_service(*options, "--http-names").path):
        seen.page.locator("#clients td", has_text=re.compile(rf"^{os.getpid()}$")).wait_for()
        seen.page.get_by_text("Updated every second.").wait_for()


@pytest.mark.long(but="<")
@pytest.mark.parametrize("name", [HOSTILE, "\u05d0" * 128, "x" * 128, "'\"`=${1}"])
def test_hostile_names_are_text(
    visit, start_service: StartService, known_ram: KnownRam, name: str
) -> None:
    service = start_service(*OPTIONS, "--http-names")
    seen = visit(address_of(service))
    with attached(service, known_ram, name=name) as client:
        client.result("check", {"block": 0})
        wait_for_scan(seen.page, 1)
        assert name in seen.page.locator("#scans tbody td").all_text_contents()
        assert name in seen.page.locator("#clients tbody td").all_text_contents()
        seen.page.reload()  # as HTML, too
        wait_for_scan(seen.page, 1)
        assert name in seen.page.locator("#scans tbody td").all_text_contents()
    assert seen.page.title() == "pagecheck"
    assert seen.page.locator("script").count() == 1
    assert seen.page.locator("img").count() == 1


def test_without_scripts_it_is_all_there(
    visit, start_service: StartService, known_ram: KnownRam
) -> None:
    service = start_service(*OPTIONS)
    with attached(service, known_ram) as client:
        client.result("check", {"block": 0})
        assert Web(service).rows("scans")
        page = visit(address_of(service), scripts=False).page
        assert scans(page) == ["1"]
        assert page.get_by_role("button").count() == 0
