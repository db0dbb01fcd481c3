"""A service's page, asked for as a browser would, and read."""

from __future__ import annotations

import contextlib
import html.parser
import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient
from tests.support.service import ServiceProcess

OPTIONS = ("-v", "--engine", "cpu", "--http", "127.0.0.1:0")


@contextlib.contextmanager
def attached(service: ServiceProcess, ram: KnownRam, **how: object) -> Iterator[RawClient]:
    """A client that has attached one block."""
    with RawClient(service.path) as client:
        client.receive()
        client.result("attach", how, [ram.fd])
        yield client


class Web:
    """The page of a service.

    Attributes:
        address: host and port.
    """

    def __init__(self, service: ServiceProcess) -> None:
        said = re.search(r"page on http://(\S+)/", service.stderr_text())
        assert said is not None
        self.address = said[1]

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The answer and its body."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def data(self) -> dict[str, Any]:
        """What the script is told."""
        answer, body = self.ask("/data.json")
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "application/json"
        found: dict[str, Any] = json.loads(body)
        return found

    def html(self) -> Html:
        """The page, read."""
        answer, body = self.ask("/")
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
        return Html(body.decode())

    def rows(self, table: str) -> list[dict[str, str]]:
        """The rows of a table: cells by the heads of their columns; the page and what the script
        is told say the same."""
        while True:
            before, page, after = self.data(), self.html(), self.data()
            if before["tables"][table] == after["tables"][table]:  # else it changed meanwhile
                break
        rows = page.tables[table]
        assert [[*row.values()] for row in rows] == [
            each["cells"] for each in before["tables"][table]
        ]
        return rows


class Html(html.parser.HTMLParser):
    """Tables by the id of their section, and every element and attribute that there is.

    Attributes:
        facts: what the service is said to be, by name.
        elements: names and attributes, in order.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[dict[str, str]]] = {}
        self.facts: dict[str, str] = {}
        self._heads: list[str] = []
        self._cells: list[str] = []
        self._open: list[str] = []
        self._section = self._term = ""
        self.feed(text)
        self.close()
        assert self._open == [], "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("meta", "link", "img", "source"):
            return
        self._open.append(tag)
        if tag == "section":
            self._section = str(dict(attrs)["id"])
        elif tag == "thead":
            self._heads = []
            self.tables[self._section] = []
        elif tag == "tr":
            self._cells = []
        elif tag in ("th", "td"):
            self._cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag != "tr":
            return
        if "thead" in self._open:
            self._heads = self._cells
        else:
            self.tables[self._section].append(dict(zip(self._heads, self._cells, strict=True)))

    def handle_data(self, data: str) -> None:
        if not self._open:
            return
        if self._open[-1] in ("th", "td"):
            self._cells[-1] += data
        elif self._open[-1] == "dt":
            self._term = data
        elif self._open[-1] == "dd":
            self.facts[self._term] = data
