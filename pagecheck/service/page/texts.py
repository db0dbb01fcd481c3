"""Numbers as people read them on the page."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

from pagecheck.printable import printable

NONE: Final = "-"
NAME_CHARS: Final = 200
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TIMES: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def number(value: float) -> str:
    """A count."""
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Bytes in the largest binary unit that leaves at least 1."""
    unit = 0
    while value >= 1024 and unit < len(_SIZES) - 1:
        value /= 1024
        unit += 1
    return f"{value:,.0f} {_SIZES[unit]}" if unit == 0 else f"{value:,.1f} {_SIZES[unit]}"


def rate(value: float | None, of: str = "") -> str:
    """So many, or so many bytes, in a second; None: not known yet."""
    if value is None:
        return NONE
    text = size(value) if of == "bytes" else f"{value:,.1f}" if value < 100 else number(value)
    return f"{text}/s"


def span(seconds: float) -> str:
    """How long something lasted, or lasts."""
    if seconds < 60:
        for unit, name in _TIMES:
            if seconds >= unit:
                return f"{seconds / unit:.3g} {name}"
        return f"{seconds * 1e9:.0f} ns" if seconds > 0 else "0 s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"


def at_most(edge: float | None) -> str:
    """A percentile, of which the upper edge of its bucket is known; None: there was nothing."""
    if edge is None:
        return NONE
    return "longer than counted" if math.isinf(edge) else f"≤ {span(edge)}"


def share(part: int, whole: int) -> str:
    """So many of all, in percent; never rounded to nothing or all where it is neither."""
    if not whole:
        return NONE
    if 0 < part < whole / 1000:
        return "under 0.1%"
    return "over 99.9%" if 0.999 * whole < part < whole else f"{part / whole:.1%}"


def moment(since_1970: float) -> str:
    """A date and the time of day, in UTC."""
    return f"{datetime.fromtimestamp(since_1970, UTC):%Y-%m-%d %H:%M:%S}"


def name(text: str) -> str:
    """What others chose: on one line, and not too long."""
    return printable(text, NAME_CHARS)
