"""`pagecheck serve`."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import click

from pagecheck.cli.options import EXIT_CODES, SIZE, engine_options
from pagecheck.cli.streams import log_to_stderr


@click.command(epilog=EXIT_CODES, short_help="Serve VMMs and tools beside them.")
@click.option(
    "--socket", "path", type=click.Path(), metavar="PATH", help="Listen there, mode 0600."
)
@click.option(
    "--fd",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="Listen on an inherited descriptor.",
)
@engine_options
@click.option(
    "--channels",
    type=int,
    metavar="N",
    help="Workers for checks by command, shared by all clients. Default: one per --wq; else one "
    "per usable CPU, at most 16.",
)
@click.option(
    "--allow-uid",
    "allowed_uids",
    type=click.IntRange(0),
    multiple=True,
    metavar="UID",
    help="Let this user in, too; repeat it for several. The socket's mode is 0666 then, and the "
    "kernel says who connects. Root and our own user are always let in.",
)
@click.option("--max-clients", type=int, default=32, show_default=True, help="At a time.")
@click.option(
    "--max-channels",
    type=int,
    default=16,
    show_default=True,
    help="Direct channels per client; each is a worker process.",
)
@click.option(
    "--max-block-size",
    type=SIZE,
    metavar="BYTES",
    help="Largest RAM block. Default: four times this host's memory.",
)
@click.option(
    "--max-memory",
    type=SIZE,
    metavar="BYTES",
    help="Answers that one client keeps. Default: a 64th of the memory that this process may use "
    "(MemoryMax=), at least 16M; all clients together may keep a quarter.",
)
@click.option(
    "--max-pause",
    type=float,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest that a client may have its VM stopped.",
)
@click.option(
    "--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there, such as 127.0.0.1:9753."
)
@click.option(
    "--print-capabilities", is_flag=True, help="Print what this service can do as JSON and exit."
)
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr who comes and goes.")
def serve(
    path: str | None,
    fd: int | None,
    *,
    allowed_uids: tuple[int, ...],
    max_clients: int,
    max_channels: int,
    max_block_size: int | None,
    max_memory: int | None,
    max_pause: float,
    metrics: str | None,
    print_capabilities: bool,
    verbose: bool,
    **engine: Any,
) -> int:
    """Serve VMMs and tools beside them, until SIGTERM.

    It stays in the foreground and listens on one Unix socket: --socket, --fd, or the socket that
    systemd passes on. Clients attach guest RAM by its descriptor and ask for checks in lines of
    JSON, or open direct channels, on which a VMM's own threads submit batches through shared
    memory. What a client attached goes when it goes.

    \b
    Examples:
      pagecheck serve --socket /run/pagecheck.sock
      pagecheck serve --socket /run/pagecheck.sock --metrics 127.0.0.1:9753
      pagecheck serve --fd 3 3<>...          (a launcher's listening socket)
    """
    if print_capabilities:
        from pagecheck.service.protocol import CAPABILITIES, PROTOCOL

        print(json.dumps({"protocol": PROTOCOL, "features": list(CAPABILITIES)}))
        return 0
    log_to_stderr(logging.INFO if verbose else logging.WARNING)
    from pagecheck.hw.wq import parse as parse_queue
    from pagecheck.service.answers import default_memory, usable_memory
    from pagecheck.service.limits import Limits, default_block_bytes
    from pagecheck.service.run import Where, run_service
    from pagecheck.service.seldom import limit_log

    for queue in engine["wq"]:
        parse_queue(queue)
    each, everybodys = default_memory(usable_memory())
    each = each if max_memory is None else max_memory
    limits = Limits(
        clients=max_clients,
        channels=max_channels,
        pause_seconds=max_pause,
        memory_bytes=each,
        memory_all_bytes=max(each, everybodys),
        block_bytes=default_block_bytes() if max_block_size is None else max_block_size,
    )
    where = Where(os.fspath(path) if path else None, fd, allowed_uids, metrics)
    limit_log()
    run_service(where, limits, **engine)
    return 0
