# ruff: noqa: E501 (names as they are printed)
"""Mutants that no test notices, and why none has to.

The key is a mutant's name, without the line number of a Python one.
"""

from __future__ import annotations

import re
from typing import Final

_WHOLE_START: Final = "a block begins at a multiple of its page size: make_block refuses others"
_NO_OFFSET: Final = "an offset counts only where absent pages are a file's"

SURVIVORS: Final[dict[str, str]] = {
    "old zero bits stay when a page is decided again": (
        "no page that is put back has a zero bit yet: the line keeps that true for later changes"
    ),
    "a flight is zero with descriptors that the queue did not take": (
        "records are cleared before each submission, so what was not taken has none that says zero"
    ),
    "a run reaches over what is not zero": (
        "units come in order, and one that is not zero has ended the run before"
    ),
    "no fence between a request and the look at its sleeper": (
        "a window of nanoseconds, after which a sleep of at most a second; docs/models breaks this "
        "rule, too (NO_SUBMIT_FENCE), and Spin finds it"
    ),
    "what could not be read is punched": (
        "take_units takes nothing either of what did not come whole"
    ),
    "pagecheck/shm/extents.py: by_map: before, logical, flags = at, end, 0: 0 -> 1": (
        "without an extent the end is reached, whatever the flags"
    ),
    "pagecheck/snapshot/ram_files.py: _not_marked: last = (end * zero.page_bytes - 1) // "
    "CHUNK_BYTES: 1 -> 2": "pages end at multiples of 4096",
    "pagecheck/snapshot/ram_files.py: _not_marked: chunk = last + 1: last + 1 -> (last - 1)": (
        "at most the last chunk is named again, and whoever reads leaves out what came before"
    ),
    "pagecheck/coordinator/check.py: _finish: if normal >= 0:: normal >= 0 -> (normal > 0)": (
        "where all pages are zero, the slow way gives the same answer"
    ),
    "pagecheck/coordinator/check.py: _finish: if normal >= 0:: 0 -> 1": (
        "where all pages but one are zero, the slow way gives the same answer"
    ),
    "pagecheck/plan.py: make_block: if length <= 0 or length % page_size:: 0 -> 1": (
        "no length of 1 is a multiple of a page size"
    ),
    'pagecheck/snapshot/copying.py: normal_bytes: access="auto" if scanner.engine == "dsa" else '
    '"read",: scanner.engine == "dsa" -> (scanner.engine != "dsa")': (
        "how the pages are looked at for an estimate: the numbers are the same"
    ),
    "pagecheck/vmm/find/private.py: _meaning: return _native.ABSENT_UNDECIDED, 0, why: 0 -> 1": _NO_OFFSET,
    "pagecheck/vmm/find/private.py: _meaning: return _native.ABSENT_ZERO, 0, None: 0 -> 1": _NO_OFFSET,
    'pagecheck/vmm/find/private.py: _meaning: return _native.UNREADABLE, 0, "the memory of a device, and u: 0 -> 1': _NO_OFFSET,
    'pagecheck/vmm/find/private.py: _meaning: return _native.UNREADABLE, 0, f"{why}, and undecided": 0 -> 1': _NO_OFFSET,
    "pagecheck/shm/bitmaps.py: forget_from: if page < self.pages:: page < self.pages -> (page <= self.pages)": (
        "behind the last page there is nothing to clear"
    ),
    "pagecheck/shm/extents.py: by_seeking: while at < end:: at < end -> (at <= end)": (
        "data at the end is behind it, and ends the loop one look-up later"
    ),
    "pagecheck/snapshot/punch_vm.py: overlaps: while run is not None and run[0] < end:: run[0] < end -> (run[0] <= end)": (
        "a run that begins at the end has nothing before it, and stays for the next data"
    ),
    "pagecheck/snapshot/punch_vm.py: overlaps: if run[1] > end:: run[1] > end -> (run[1] >= end)": (
        "a run that ends with the data has nothing behind it: the next data passes over it"
    ),
    "pagecheck/plan.py: common_page_size: common = math.gcd(common, begin - block.start, end - block.s: begin - block.start -> (begin + block.start)": _WHOLE_START,
    "pagecheck/plan.py: common_page_size: common = math.gcd(common, begin - block.start, end - block.s: end - block.start -> (end + block.start)": _WHOLE_START,
    "pagecheck/plan.py: page_runs: if (edge - block.start) % page:: edge - block.start -> (edge + block.start)": _WHOLE_START,
    "pagecheck/coordinator/select.py: window: inside = (begins < first + count) & (ends > first): begins < first + count -> (begins <= first + count)": (
        "a range that begins behind the window has no page in it"
    ),
    "pagecheck/coordinator/select.py: window: inside = (begins < first + count) & (ends > first): ends > first -> (ends >= first)": (
        "a range that ends before the window has no page in it"
    ),
    "pagecheck/coordinator/select.py: window: for begin, end in zip(begins[inside].tolist(), ends[inside].: True -> False": (
        "both have one item for each range inside"
    ),
    "pagecheck/shm/extents.py: written: begin = end = -1: 1 -> 2": "no extent begins at either",
}

_LINE: Final = re.compile(r"(\.py):\d+:")


def key(name: str) -> str:
    """What a mutant of that name is called here."""
    return _LINE.sub(r"\1:", name)


def reason(name: str) -> str | None:
    """Why the mutant may survive; None: it may not."""
    return SURVIVORS.get(key(name))
