"""`pagecheck serve`."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import ENGINE, EXIT_CODES, SIZE, channels, max_pause, verbose
from pagecheck.cli.streams import log_to_stderr

if TYPE_CHECKING:
    from pagecheck.service.limits import Limits

_WHERE: Final = (
    click.Option(
        ["--socket", "path"], type=click.Path(), metavar="PATH", help="Listen there, mode 0600."
    ),
    click.Option(
        ["--fd"],
        type=click.IntRange(0, 2**31 - 1),
        metavar="N",
        help="Listen on an inherited descriptor.",
    ),
)

_WORKERS: Final = (
    *ENGINE,
    channels(
        "Workers for checks by command, shared by all clients. Default: one per --wq; else one "
        "per usable CPU, at most 16."
    ),
)

_LIMITS: Final = (
    click.Option(
        ["--allow-uid", "allowed_uids"],
        type=click.IntRange(0),
        multiple=True,
        metavar="UID",
        help="Accept this user, too; repeat it for several. The socket's mode is 0666 then, and "
        "the kernel identifies clients. Root and our own user are always accepted.",
    ),
    click.Option(
        ["--policy"],
        type=click.Path(),
        metavar="FILE",
        help="Whose VMs other users may look at, or stop, beyond what the kernel lets them; TOML. "
        "Those whom it names are accepted, as by --allow-uid.",
    ),
    click.Option(["--max-clients"], type=int, default=32, show_default=True, help="At a time."),
    click.Option(
        ["--max-channels"],
        type=int,
        default=16,
        show_default=True,
        help="Direct channels per client; each is a worker process.",
    ),
    click.Option(
        ["--max-block-size"],
        type=SIZE,
        metavar="BYTES",
        help="Largest RAM block. Default: four times this host's memory.",
    ),
    click.Option(
        ["--max-memory"],
        type=SIZE,
        metavar="BYTES",
        help="Answers that one client keeps. Default: a 64th of the memory that this process may "
        "use (MemoryMax=), at least 16M; all clients together may keep a quarter.",
    ),
    max_pause("The longest pause of a VM for a client."),
)

_OUTPUT: Final = (
    click.Option(
        ["--metrics"],
        metavar="HOST:PORT",
        help="Serve Prometheus metrics there, such as 127.0.0.1:9753.",
    ),
    click.Option(
        ["--http", "page"],
        metavar="HOST:PORT",
        help="Serve a page for browsers there, such as 127.0.0.1:9754: workers, queues, clients, "
        "VMs on hold, rates, and pictures of the last scans. It has no login: every user of this "
        "host reaches a loopback address.",
    ),
    click.Option(
        ["--http-names", "page_names"],
        is_flag=True,
        help="Show on the page, too, which processes and users the clients are, and the names of "
        "VMs and blocks.",
    ),
    click.Option(
        ["--print-capabilities"],
        is_flag=True,
        help="Print what this service can do as JSON and exit.",
    ),
    verbose("Log to stderr which clients connect and leave."),
)


@click.command(
    params=[*_WHERE, *_WORKERS, *_LIMITS, *_OUTPUT],
    epilog=EXIT_CODES,
    short_help="Serve VMMs and tools beside them.",
)
def serve(
    path: str | None,
    fd: int | None,
    *,
    allowed_uids: tuple[int, ...],
    policy: str | None,
    max_clients: int,
    max_channels: int,
    max_block_size: int | None,
    max_memory: int | None,
    max_pause: float,
    metrics: str | None,
    page: str | None,
    page_names: bool,
    print_capabilities: bool,
    verbose: bool,
    **engine: Any,
) -> int:
    """Serve VMMs and tools beside them, until SIGTERM.

    It stays in the foreground and listens on one Unix socket: --socket, --fd, or the socket that
    systemd passes. Clients attach guest RAM by its descriptor and ask for checks in lines of
    JSON, or open direct channels, on which a VMM's own threads submit batches through shared
    memory. A client's blocks are detached when it disconnects.

    \b
    Examples:
      pagecheck serve --socket /run/pagecheck.sock
      pagecheck serve --socket /run/pagecheck.sock --metrics 127.0.0.1:9753
      pagecheck serve --socket /run/pagecheck.sock --http 127.0.0.1:9754
      pagecheck serve --fd 3 3<>...          (a launcher's listening socket)
    """
    if print_capabilities:
        from pagecheck.service.protocol import CAPABILITIES, PROTOCOL

        print(json.dumps({"protocol": PROTOCOL, "features": list(CAPABILITIES)}))
        return 0
    log_to_stderr(verbose=verbose)
    from pagecheck.errors import UsageError
    from pagecheck.service.log_limit import limit_log
    from pagecheck.service.policy import NO_POLICY, load_policy
    from pagecheck.service.run import Where, run_service

    limits = _limits(max_clients, max_channels, max_pause, max_memory, max_block_size)
    rules = NO_POLICY if policy is None else load_policy(policy)
    if page_names and page is None:
        raise UsageError("--http-names: goes with --http")
    listens = os.fspath(path) if path else None
    where = Where(listens, fd, allowed_uids, metrics, rules, page, page_names)
    limit_log()
    run_service(where, limits, **engine)
    return 0


def _limits(
    clients: int, channels: int, pause_seconds: float, memory: int | None, block_bytes: int | None
) -> Limits:
    """The clients' limits; None stands for this host's default."""
    from pagecheck.service.answers import default_memory, usable_memory
    from pagecheck.service.limits import Limits, default_block_bytes

    each, of_all = default_memory(usable_memory())
    each = each if memory is None else memory
    return Limits(
        clients=clients,
        channels=channels,
        pause_seconds=pause_seconds,
        memory_bytes=each,
        memory_all_bytes=max(each, of_all),
        block_bytes=default_block_bytes() if block_bytes is None else block_bytes,
    )
