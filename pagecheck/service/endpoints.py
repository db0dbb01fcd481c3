"""What a service offers over HTTP, where it was asked for: the metrics and the page."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from pagecheck.service.http import HttpServer, Routes, listen_http, parse_address

if TYPE_CHECKING:
    from pagecheck.service.service import Service

log = logging.getLogger(__name__)


class Endpoint(NamedTuple):
    """One address, and what is there.

    Attributes:
        option: what it was given by, for messages.
        address: host and port.
        metrics, page: what is there.
        names: as of `page_routes`.
    """

    option: str
    address: tuple[str, int]
    metrics: bool
    page: bool
    names: bool

    def start(self, service: Service) -> HttpServer:
        """Listens.

        Returns:
            The server, which the caller closes.

        Raises:
            ResourceError: that is not possible.
        """
        server, shown = listen_http(self.option, self.address, self._routes(service))
        if self.metrics:
            log.info("metrics on http://%s/metrics", shown)
        if self.page:
            log.info("page on http://%s/", shown)
        return server

    def _routes(self, service: Service) -> Routes:
        found: Routes = {}
        if self.metrics:
            from pagecheck.service.metrics import metrics_routes

            found = metrics_routes(service)
        if self.page:
            from pagecheck.service.page import page_routes

            found = {**found, **page_routes(service, self.address[0], names=self.names)}
        return found


def endpoints(metrics: str | None, page: str | None, *, names: bool) -> list[Endpoint]:
    """What was asked for; one address has one listener.

    Args:
        metrics, page: HOST:PORT, or None.
        names: as of `page_routes`.

    Raises:
        UsageError: an address is invalid.
    """
    found = {}
    if metrics is not None:
        address = parse_address("--metrics", metrics)
        found[address] = Endpoint("--metrics", address, True, False, names)
    if page is not None:
        address = parse_address("--http", page)
        both = address in found
        option = "--metrics, --http" if both else "--http"
        found[address] = Endpoint(option, address, both, True, names)
    return list(found.values())
