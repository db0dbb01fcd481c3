"""`pagecheck status`: a service's state, once or live."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pagecheck import clock
from pagecheck.cli.options import EXIT_CODES
from pagecheck.cli.signals import raise_pending
from pagecheck.cli.streams import require_reader


@click.command(epilog=EXIT_CODES, short_help="Show a service's state.")
@click.option("--socket", "path", type=click.Path(), required=True, help="Where it listens.")
@click.option("--watch", is_flag=True, help="Repeat until interrupted; on a terminal in place.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two updates.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line each time.")
def status(path: str, *, watch: bool, interval: float, as_json: bool) -> int:
    """Show the state of the service at a socket: its workers, clients and counters."""
    from pagecheck.cli.service_table import service_table
    from pagecheck.service.client import Client

    require_reader()
    with Client(path) as client:
        found = client.stats()
        if not watch:
            print(json.dumps(found) if as_json else service_table(found, None, 0.0))
            return 0
        if as_json or not sys.stdout.isatty():
            while True:
                print(json.dumps(found) if as_json else service_table(found, None, 0.0), flush=True)
                _sleep(interval)
                found = client.stats()
        return _live(client, found, interval)


def _live(client: Any, first: dict[str, Any], interval: float) -> int:
    from rich.live import Live
    from rich.text import Text

    from pagecheck.cli.service_table import service_table

    before = first
    with Live(Text(service_table(first, None, 0.0)), auto_refresh=False, screen=False) as live:
        while True:
            _sleep(interval)
            now = client.stats()
            live.update(Text(service_table(now, before, interval)), refresh=True)
            before = now


def _sleep(seconds: float) -> None:
    clock.sleep_s(seconds)
    raise_pending()
