"""What the DSA engine costs the CPU beside a software device; nothing here is about a real one.

Instructions are counted by callgrind, in user mode and exactly: `dsa_cost.c` puts packets of 128
pages through `pc_dsa_start` and `pc_dsa_finish` with a device that has answered when its submit
returns, and callgrind counts while its `decide_packets` runs (`--toggle-collect`). Of that, only
the functions of pagecheck/native/core count, each with what the compiler inlined into it and
without what it calls: the device's answers, libc and the kernel are left out.

The wait is measured in CPU time of the waiting thread over wall clock, inside `pc_dsa_finish`, so
that the settling of the answers is in it and the submission is not. Descriptors per zero page are
the statistics of a scan of a guest's RAM.
"""

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pagecheck
from pagecheck.native import _native
from tools.bench.data import BUILD, ROOT
from tools.bench.rows import Row, Spread
from tools.guest.snapshot import copy_sparse, data_extents

NATIVE = ROOT / "pagecheck" / "native"
CORE = NATIVE / "core"
PACKETS = 64
PAGE = 4096

_WANTED = "the most that is wanted"


class Costs(NamedTuple):
    """What one run of `dsa_cost count` took per page."""

    instructions: float
    descriptors: float


class _Case(NamedTuple):
    """Arguments of `dsa_cost count`."""

    kind: str
    order: str
    sample: bool
    runs: bool


def core_instructions(lines: Iterable[str], core: str) -> int:
    """Adds up the self cost of the functions whose source lies in a folder.

    A function counts whole as soon as one of its blocks begins in the folder: callgrind names a
    block by the file of its first instruction, which may be a header that was inlined.

    Args:
        lines: callgrind's output, written without compression of names and positions.
        core: the folder, as the compiler was given it.

    Returns:
        Instructions.
    """
    costs: dict[str, int] = {}
    ours = set()
    file = function = ""
    inclusive = False
    for line in lines:
        key, _, value = line.rstrip("\n").partition("=")
        if line[:1].isdigit():
            if not inclusive:
                costs[function] = costs.get(function, 0) + int(line.split()[1])
            inclusive = False
        elif key == "calls":
            inclusive = True  # the next line is what the callee took
        elif key == "fl":
            file = value
        elif key == "fn":
            function = value
            if file.startswith(core + "/"):
                ours.add(function)
    return sum(cost for function, cost in costs.items() if function in ours)


def _compile() -> Path:
    program = BUILD / "dsa_cost"
    program.parent.mkdir(parents=True, exist_ok=True)
    sources = [*sorted(CORE.glob("*.c")), *sorted((NATIVE / "model").glob("*.c"))]
    # As setup.py and Python's own flags compile the extension.
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    command = ["gcc", *flags, "-pthread", f"-I{CORE}", f"-I{NATIVE / 'model'}"]
    command += [str(Path(__file__).parent / "dsa_cost.c"), *map(str, sources)]
    subprocess.run([*command, "-o", str(program), "-lrt"], check=True)
    return program


def _count(program: Path, kernel: str, case: _Case) -> Costs:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--quiet", "--toggle-collect=decide_packets"),
                *("--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={out}"),
                *(str(program), "count", kernel, case.kind, case.order),
                *(str(int(case.sample)), str(int(case.runs)), str(PACKETS)),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        with out.open() as lines:
            total = core_instructions(lines, str(CORE))
    counts: dict[str, int] = json.loads(done.stdout)
    return Costs(total / counts["pages"], counts["descriptors"] / counts["pages"])


def _row(
    what: str,
    case: str,
    peer: str,
    ours: float,
    theirs: float,
    aim: float | None,
    detail: str = "",
) -> Row:
    return Row(
        what=f"software device, {what}",
        case=case,
        peer=peer,
        ratio=Spread.of([theirs / ours]),
        aim=aim,
        ours=ours,
        theirs=theirs,
        limit=None,
        unit="instr/page",
        detail=detail,
        limited_by="instructions of the helper, counted exactly",
    )


def _instructions(program: Path) -> Iterator[Row]:
    if shutil.which("valgrind") is None:
        note = "valgrind is not installed (Debian: valgrind)"
        yield Row("software device, instructions", "", "-", None, None, None, None, None, "", note)
        return
    usable = {name for name, why_not, _ in _native.kernels() if why_not is None}
    kernel = "avx2" if "avx2" in usable else "portable"  # valgrind has no AVX-512
    what = f"instructions, kernel {kernel}"

    def cost(kind: str, order: str, *, sample: bool = True, runs: bool = True) -> Costs:
        return _count(program, kernel, _Case(kind, order, sample, runs))

    zero = cost("zero", "apart")
    yield _row(what, "zero pages, a descriptor each", _WANTED, zero.instructions, 50, 1.0)
    normal = cost("normal", "apart")
    yield _row(what, "normal from byte 0", _WANTED, normal.instructions, 25, 1.0)
    together = cost("zero", "together")
    apart = cost("zero", "together", runs=False)
    yield _row(
        what,
        "zero pages in order",
        "no page shares a descriptor",
        together.instructions,
        apart.instructions,
        None,
        f"{together.descriptors:.3f} descriptors a page",
    )
    for order, words in (("together", "in order"), ("apart", "no neighbours")):
        sampled = cost("half", order)
        bare = cost("half", order, sample=False)
        yield _row(
            what,
            f"half-half mix, {words}",
            "no sampling",
            sampled.instructions,
            bare.instructions,
            None,
            f"{sampled.descriptors:.2f} descriptors a page, the peer {bare.descriptors:.2f}",
        )


def _waits(program: Path, repeats: int) -> Iterator[Row]:
    """Shares of the wait, in per cent of its wall clock."""
    cases: tuple[tuple[int, int, float | None], ...] = (
        (2000, 64, 5.0),
        (100, 256, None),
        (20, 256, None),
    )
    for delay_us, packets, aim in cases:
        done = subprocess.run(
            [str(program), "wait", str(delay_us * 1000), str(packets), str(repeats)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        figures = json.loads(done.stdout)
        ours = [100 * cpu / wall for cpu, wall in figures["ours"]]
        spun = [100 * cpu / wall for cpu, wall in figures["spinning"]]
        wall_us = statistics.median(wall for _, wall in figures["ours"]) / 1e3
        peers: list[tuple[str, list[float], float | None]] = [("poll and pause", spun, None)]
        if aim is not None:
            peers.insert(0, (_WANTED, [aim] * repeats, 1.0))
        for peer, theirs, wanted in peers:
            yield Row(
                what="software device, CPU while it holds a packet",
                case=f"device delay {delay_us} us",
                peer=peer,
                ratio=Spread.of([t / o for t, o in zip(theirs, ours, strict=True)]),
                aim=wanted,
                ours=statistics.median(ours),
                theirs=statistics.median(theirs),
                limit=None,
                unit="% of the wait",
                detail=f"waited {wall_us:.0f} us",
                limited_by="the settling of the answers",
            )


def _guest(ram: Path | None, repeats: int) -> Iterator[Row]:
    """Scans a copy in tmpfs, all of whose data is resident."""
    what = "software device, descriptors per zero page"
    if ram is None:
        note = "give --guest FILE (see tools.guest)"
        yield Row(what, "a guest's RAM", "-", None, None, None, None, None, "", note)
        return
    copy = Path(f"/dev/shm/pagecheck-bench-{os.getpid()}-guest.ram")
    per_device, per_zero = [], []
    try:
        copy_sparse(ram, copy)
        holes = copy.stat().st_size // PAGE - _data_pages(copy)
        for _ in range(repeats):
            report = pagecheck.scan(copy, engine="dsa", wq=["model:"])
            counted = report.statistics
            zero = report.blocks[0].counts.zero
            # Pages that the CPU took over may have been normal: the figure is an upper bound.
            by_device = zero - holes - counted.pages_completed - counted.pages_cpu
            per_device.append(counted.descriptors / max(by_device, 1))
            per_zero.append(counted.descriptors / max(zero, 1))
    finally:
        copy.unlink(missing_ok=True)
    detail = f"{zero - holes} zero pages with data, {holes} holes"
    for words, figures, aim in (
        ("by those that the device decided", per_device, 0.25),
        ("by all", per_zero, None),
    ):
        yield Row(
            what=what,
            case=f"{ram.name}, {words}",
            peer=_WANTED if aim else "-",
            ratio=Spread.of([aim / figure for figure in figures]) if aim else None,
            aim=1.0 if aim else None,
            ours=1000 * statistics.median(figures),
            theirs=1000 * aim if aim else None,
            limit=None,
            unit="per 1000 pages",
            detail=detail,
            limited_by="runs of zero pages that a normal one interrupts",
        )


def _data_pages(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sum(end - start for start, end in data_extents(fd)) // PAGE
    finally:
        os.close(fd)


def run(repeats: int, guest_ram: Path | None) -> list[Row]:
    """Measures all three.

    Args:
        repeats: how often the waits and the scans are measured; instructions are exact.
        guest_ram: a file with a guest's RAM, read through a copy; None skips that part.

    Returns:
        Rows; where the least is wanted, the ratio is that limit over ours.

    Raises:
        subprocess.CalledProcessError: the program did not compile, or got an answer wrong.
    """
    program = _compile()
    return [*_instructions(program), *_waits(program, repeats), *_guest(guest_ram, repeats)]
