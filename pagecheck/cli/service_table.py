"""The answer of `query-stats` as a table for the terminal."""

from __future__ import annotations

from typing import Any

from pagecheck.cli.present import columns, size_text
from pagecheck.errors import PeerError
from pagecheck.printable import printable, printable_lines


def service_table(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> str:
    """The service's state as text.

    Args:
        now: what `Client.stats` returned.
        before: the same, that many seconds ago, for rates; None: there are none.

    Raises:
        PeerError: it is invalid.
    """
    try:
        return _table(now, before, seconds)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise PeerError(f"the service's statistics are invalid: {error!r}") from error


def _table(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> str:
    numbers = now["numbers"]
    head = (
        f"process {now['pid']}, up {_duration(now['uptime_seconds'])}; engine {now['engine']}, "
        f"kernel {now['kernel']}, {now['workers']} workers ({now['workers_replaced']} replaced); "
        f"{now['clients']} clients, {now['blocks']} blocks, {now['channels']} direct channels"
    )
    counted = (
        f"{numbers.get('commands', 0):,.0f} commands ({numbers.get('errors', 0):,.0f} errors), "
        f"{numbers.get('checks', 0):,.0f} checks; {numbers.get('pauses', 0):,.0f} VM pauses, "
        f"{numbers.get('pause_seconds', 0):.3f} s; "
        f"{numbers.get('channels_lost', 0):,.0f} channels lost"
    )
    parts = [head, counted, "", columns(_engines(now, before, seconds))]
    if now["sessions"]:
        parts += ["", columns(_sessions(now["sessions"]))]
    return printable_lines("\n".join(parts))


def _engines(now: dict[str, Any], before: dict[str, Any] | None, seconds: float) -> list[list[str]]:
    rows = [
        ["engine", "batches", "zero", "normal", "undecided", "holes", "checked", "mean", "rate"]
    ]
    for engine, each in now["engines"].items():
        pages = each["pages"]
        mean = each["latency_ns"] / each["answered"] / 1e3 if each["answered"] else 0.0
        rate = "-"
        if before is not None and engine in before["engines"]:
            done = pages["bytes"] - before["engines"][engine]["pages"]["bytes"]
            rate = f"{size_text(round(max(done, 0) / seconds))}/s"
        counts = [each["answered"], *(pages[k] for k in ("zero", "normal", "undecided", "holes"))]
        row = [engine, *(f"{n:,}" for n in counts)]
        rows.append([*row, size_text(pages["bytes"]), f"{mean:.1f} us", rate])
    return rows


def _sessions(sessions: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["client", "process", "user", "since", "commands", "channels", "blocks", "doing"]]
    for each in sessions:
        names = [printable(block["name"]) for block in each["blocks"]]
        size = sum(block["size"] for block in each["blocks"])
        lost = sum(channel["gone"] for channel in each["channels"])
        channels = f"{len(each['channels'])}" + (f" ({lost} gone)" if lost else "")
        blocks = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} {size_text(size)}"
        rows.append(
            [
                str(each["client"]),
                str(each["pid"]),
                str(each["uid"]),
                _duration(each["seconds"]),
                f"{each['commands']:,}",
                channels,
                blocks if names else "-",
                printable(each["doing"] or "-"),
            ]
        )
    return rows


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
