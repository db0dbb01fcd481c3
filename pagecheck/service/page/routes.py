"""Who answers what of the page: the HTML, what its script asks for, the pictures, our own files.

Danger: a page of somebody else's, whose name is made to lead to our address, would be the same
origin to a browser and could read ours (DNS rebinding). Decision: the header Host names an address,
which no name can stand for, or localhost.
Danger: many readers. Decision: what there is to see is computed at most four times a second.
"""

from __future__ import annotations

import ipaddress
import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.service.http import Page, Request, Routes
from pagecheck.service.page.html import members, page
from pagecheck.service.page.rates import Rates
from pagecheck.service.page.recent import KEPT_BYTES, Recent
from pagecheck.service.page.tables import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from pagecheck.service.service import Service

FRESH_S: Final = 0.25
HTML: Final = "text/html; charset=utf-8"
TEXT: Final = "text/plain; charset=utf-8"
PICTURE: Final = re.compile(r"/picture/([0-9]{1,18})(-dark)?\.png")
HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::[0-9]+)?")


def page_routes(service: Service, host: str, *, names: bool) -> Routes:
    """The page, for `HttpServer`; from now on the service keeps its last scans for it.

    Args:
        host: the IP address that is listened on.
        names: show who the clients are, and what they call their VMs and blocks.
    """
    recent = service.recent = Recent()
    service.answers.count(recent, KEPT_BYTES)
    look = _Look(service, recent, names=names)
    own = files("pagecheck.service.page")
    css, js = (own.joinpath(each).read_bytes() for each in ("page.css", "page.js"))

    def picture(request: Request) -> Page | None:
        asked = PICTURE.fullmatch(request.path)
        if asked is None:
            return None
        found = recent.picture(int(asked[1]), dark=asked[2] is not None)
        return None if found is None else Page("image/png", found)

    routes: dict[str, Callable[[Request], Page | None]] = {
        "/": lambda _request: Page(HTML, look.html()),
        "/data.json": lambda _request: Page("application/json", look.json()),
        "/page.css": lambda _request: Page("text/css; charset=utf-8", css),
        "/page.js": lambda _request: Page("text/javascript; charset=utf-8", js),
        "/picture/": picture,
    }
    return {path: for_host(host, route) for path, route in routes.items()}


class _Look:
    """What is shown, not older than `FRESH_S`."""

    def __init__(self, service: Service, recent: Recent, *, names: bool) -> None:
        self._service = service
        self._recent = recent
        self._names = names
        self._rates = Rates()
        self._until = 0.0
        self._html = self._json = b""

    def html(self) -> bytes:
        """The page."""
        self._refresh()
        return self._html

    def json(self) -> bytes:
        """What its script asks for."""
        self._refresh()
        return self._json

    def _refresh(self) -> None:
        if clock.now_s() < self._until:
            return
        now = shown(self._service, self._recent, self._rates, names=self._names)
        self._html = page(now).encode()
        self._json = json.dumps(members(now), separators=(",", ":")).encode()
        self._until = clock.now_s() + FRESH_S


def for_host(
    host: str, route: Callable[[Request], Page | None]
) -> Callable[[Request], Page | None]:
    """A route for requests that are meant for us.

    Args:
        host: the IP address that is listened on.
    """

    def answer(request: Request) -> Page | None:
        hosts = request.values("host")
        if len(hosts) == 1 and is_ours(hosts[0], host):
            return route(request)
        return Page(TEXT, b"Open it by its IP address, or as localhost.\n", "403 Forbidden")

    return answer


def is_ours(given: str, host: str) -> bool:
    """Whether a header Host can be meant for us.

    Args:
        given: its value; the port in it is not looked at, for it may be forwarded.
        host: the IP address that is listened on.
    """
    found = HOST.fullmatch(given)
    if found is None:
        return False
    name = found[1] or found[2]
    if name.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    ours = ipaddress.ip_address(host)
    return address.is_loopback or address == ours or ours.is_unspecified
