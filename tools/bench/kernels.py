"""The zero-check kernel against QEMU's method, ISA-L and a pure read, on warm memory.

The timing is done by kernel_bench.c, which is compiled here and prints one JSON object per case.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecheck.native import _native
from tools.bench.rows import Row, Spread

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "pagecheck" / "native" / "core"
BUILD = ROOT / "build" / "bench"

# What a caller gives the kernel at a time: well within the range that batches may have.
BATCH_PAGES = 1024

_CASES = {
    "zero": "all zero",
    "half": "half-half mix",
    "normal": "normal from byte 0",
    "last-byte": "normal in the last byte",
    "guest": "a guest's RAM",
}
_PEERS = {
    "qemu": "QEMU's method",
    "isal": "ISA-L",
    "better": "the better peer",
    "read": "pure read",
}

_LIMITS = {
    ("zero", "in order"): "memory bandwidth",
    ("zero", "random"): "cache misses in flight, and the TLB",
    ("half", "in order"): "memory bandwidth for the zero half, a cache miss for each normal page",
    ("half", "random"): "cache misses in flight, and the TLB",
    ("normal", "in order"): "a cache miss for each page",
    ("normal", "random"): "a cache miss for each page, and the TLB",
    ("last-byte", "in order"): "two cache misses for each page",
    ("last-byte", "random"): "two cache misses for each page, and the TLB",
    ("guest", "in order"): "memory bandwidth for its zero pages",
    ("guest", "random"): "cache misses in flight, and the TLB",
}

# (case, order, peer) to the least ratio that is wanted.
_AIMS = {
    ("zero", "in order", "read"): 0.95,
    ("half", "in order", "qemu"): 2.0,
    ("half", "random", "qemu"): 1.7,
    ("zero", "random", "qemu"): 1.7,
    ("last-byte", "random", "qemu"): 1.0,
    ("guest", "in order", "better"): 1.0,
    ("zero", "in order", "better"): 0.9,
    ("normal", "in order", "better"): 0.9,
    ("normal", "random", "better"): 0.9,
    ("last-byte", "in order", "better"): 0.9,
    ("last-byte", "random", "better"): 0.9,
}


def _ratio(ours: list[float], theirs: list[float]) -> Spread:
    return Spread.of([their / our for our, their in zip(ours, theirs, strict=True)])


@dataclass(frozen=True)
class _Case:
    """What kernel_bench measured: nanoseconds per page, one figure per repeat."""

    name: str
    order: str
    memory: str
    threads: int
    kernel: str
    ns: dict[str, list[float]]

    @classmethod
    def parse(cls, line: str) -> "_Case":
        fields: dict[str, Any] = json.loads(line)
        pages = fields["pages"]
        ns = {name: [total / pages for total in totals] for name, totals in fields["ns"].items()}
        if "qemu" in ns:
            peers = [ns[name] for name in ("qemu", "isal") if name in ns]
            ns["better"] = [min(repeat) for repeat in zip(*peers, strict=True)]
        return cls(
            fields["case"],
            fields["order"],
            fields["memory"],
            fields["threads"],
            fields["kernel"],
            ns,
        )

    @property
    def limit(self) -> float | None:
        """The pure read's median."""
        return statistics.median(self.ns["read"]) if "read" in self.ns else None

    def rows(self, whole: float | None) -> Iterator[Row]:
        """Yields a row per peer; `whole` is the least that a page read whole and in order costs."""
        peers = _PEERS if "qemu" in self.ns else {"read": _PEERS["read"]}
        for peer in peers:
            if peer in self.ns or peer == "isal":
                yield self._row(peer, whole)

    def _row(self, peer: str, whole: float | None) -> Row:
        ours = self.ns["ours"]
        theirs = self.ns.get(peer)
        limit = self.limit
        if limit is None and self.name == "half" and whole is not None:
            limit = whole / 2  # its zero pages, were the others free
        order = "in order" if self.order == "in order" else "random order"
        return Row(
            what=f"kernel {self.kernel}, {self.threads} thread{'s' * (self.threads > 1)}",
            case=f"{_CASES[self.name]}, {order}, {self.memory}",
            peer=_PEERS[peer],
            ratio=_ratio(ours, theirs) if theirs else None,
            aim=_AIMS.get((self.name, self.order, peer)),
            ours=statistics.median(ours),
            theirs=statistics.median(theirs) if theirs else None,
            limit=limit,
            note="" if theirs else "absent: libisal.so.2 is not installed (Debian: libisal2)",
            limited_by=_LIMITS[(self.name, self.order)],
        )


def _compile() -> Path:
    program = BUILD / "kernel_bench"
    program.parent.mkdir(parents=True, exist_ok=True)
    here = Path(__file__).parent
    sources = [here / "kernel_bench.c", here / "peers.c", *sorted(CORE.glob("pc_kernel*.c"))]
    command = [os.environ.get("CC", "gcc"), "-O2", "-std=gnu11", "-pthread", f"-I{CORE}"]
    subprocess.run([*command, *map(str, sources), "-o", str(program), "-ldl"], check=True)
    return program


def _cases(
    kernel: str, which: str, *, repeats: int, size_bytes: int, guest: list[Path]
) -> list[_Case]:
    threads = len(os.sched_getaffinity(0))
    command = [_compile(), kernel, size_bytes, repeats, BATCH_PAGES, threads, which, *guest]
    done = subprocess.run(
        [str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True
    )
    return [_Case.parse(line) for line in done.stdout.splitlines()]


def run(repeats: int, size_bytes: int, guest_ram: Path | None) -> list[Row]:
    """Measures the best kernel in all cases, and the others with zero pages in order alone.

    Args:
        repeats: How often each contestant runs per case, interleaved; 1 to 1000.
        size_bytes: How much memory the made-up cases cover; should be several last caches.
        guest_ram: A file with a guest's RAM, which is read into memory; None skips that case.

    Returns:
        One row per case and peer.

    Raises:
        subprocess.CalledProcessError: The program did not compile, or refused its arguments, or
            a peer's answer was not ours.
    """
    usable = [name for name, why_not, _untested in _native.kernels() if why_not is None]
    guest = [] if guest_ram is None else [guest_ram]
    rows: list[Row] = []
    for name in usable:
        which = "all" if name == usable[0] else "zero"
        cases = _cases(name, which, repeats=repeats, size_bytes=size_bytes, guest=guest)
        first = cases[0]  # zero, in order, in the pages that the other cases have
        whole = min(statistics.median(first.ns[by]) for by in ("ours", "read"))
        rows += [row for case in cases for row in case.rows(whole)]
    return rows
