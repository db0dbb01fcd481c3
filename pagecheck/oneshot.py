"""`pagecheck.scan`: one source, once, with everything that it needs started and ended."""

from __future__ import annotations

import contextlib
import os

from pagecheck import clock
from pagecheck.coordinator.settings import (
    CHANNELS_MAX,
    Engine,
    check_deadline,
    check_start,
    default_channels,
)
from pagecheck.errors import StartTimeout, UsageError
from pagecheck.plan import PAUSE_MAX_S, make_block, require_seconds
from pagecheck.shm import mounts
from pagecheck.sources import Opened, check_vm, open_scanned

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final

    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.coordinator.runner import Part
    from pagecheck.coordinator.scan import Progress
    from pagecheck.coordinator.worker import WorkerProcess
    from pagecheck.model import Access, Format, Holes, Kind, Swapped
    from pagecheck.report.bitmap_files import Output
    from pagecheck.report.report import Report

# In a process that may have to be left behind: called with "blocks" (their RamBlocks) once they are
# known, and with the "report" before anything is closed.
listener: Callable[[str, Any], None] | None = None

START_S: Final = 30.0
MAX_PAUSE_S: Final = 5.0
_NOT_SENT: Final = ("progress", "coordinator")  # to a process that scans aside
_START: Final = {  # what workers are started with
    "engine": "auto",
    "wq": (),
    "fallback": False,
    "kernel": None,
    "channels": None,
    "batch_pages": None,
    "nice": 0,
    "stall": 30.0,
}


def scan(
    source: str | os.PathLike[str],
    *,
    engine: Engine = "auto",
    wq: Sequence[str] = (),
    fallback: bool = False,
    kernel: str | None = None,
    channels: int | None = None,
    page_size: int = 4096,
    batch_pages: int | None = None,
    offset: int = 0,
    length: int | None = None,
    kind: Kind = "full",
    holes: Holes = "trust",
    nice: int = 0,
    max_rate: int | None = None,
    deadline: float | None = None,
    stall: float = 30.0,
    pause: bool = False,
    max_pause: float = MAX_PAUSE_S,
    leave_stopped: bool = False,
    gpa: bool = False,
    trust_path: bool = False,
    swapped: Swapped = "leave",
    format: Format = "auto",
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    coordinator: Coordinator | None = None,
) -> Report:
    """Decides every page of a RAM snapshot or of a running VM's RAM.

    By itself it starts workers and ends them, which takes most of the time of a small scan. A
    program that scans more than once keeps a `Coordinator` and gives it here.

    Args:
        source: a path, `fd:N` (inherited), `shm:/name`, `pid:PID`, `pid:PID:NAME` (a process's
            guest RAM), or the socket of a VMM: `qmp:SOCKET` (QEMU), `fc:SOCKET`
            (Firecracker), `ch:SOCKET` (Cloud Hypervisor) or `crosvm:SOCKET`.
        channels: workers; by default one per work queue in `wq`, else the smallest of the usable
            CPUs, one per 256 MiB of data, and 16.
        offset, length: the part of the file; not for a running VM.
        deadline: seconds for everything, start-up included; pages not answered by then are
            undecided.
        pause: stop the VM meanwhile (not by `pid:`); it runs again afterwards, whatever becomes of
            us, unless it was stopped before.
        max_pause: seconds; then the VM runs on, and the answer is a hint.
        leave_stopped: with `pause`: the VM stays stopped once every block was scanned. Where the
            scan ends before that, by an error, a signal or our death, the VM runs on.
        gpa: the report's blocks say where they lie in guest-physical memory (`qmp:` only).
        trust_path: you vouch for the paths that QEMU reports (`qmp:` only): they are opened where
            nothing proves which file its RAM is, and the report says so.
        swapped: private pages of a VM that are swapped out are undecided, and stay where they are
            (`leave`), or are read, which brings them in (`read`).
        format: `auto` refuses a file that is certainly no raw RAM (a disk image, a core, a VM
            state, an archive, compressed data) and notes a doubt; `raw` takes any file for raw RAM.
            Not for a running VM, whose RAM is RAM.
        out: a folder for the bitmap files and `report.json`; the report then names the files. The
            folder is made, and proved to be writable, before the scan.
        coordinator: whose workers scan; it stays open. What its workers are started with (engine,
            wq, fallback, kernel, channels, batch_pages, nice, stall) is said when it is made, not
            here. A file whose file system may stall is scanned by other workers, started alike.

    The other arguments are those of `Coordinator`, `Coordinator.attach` and `Coordinator.scan`.

    Returns:
        The report; nothing else is left of the scan.

    Raises:
        StorageStalled: the file's, or `out`'s, file system may stall (FUSE, a network) and did not
            answer before the deadline; then a process of its own is left behind until it does.
        PagecheckError: the subclass says whose fault it is.
    """
    options = {name: value for name, value in locals().items() if name not in _NOT_SENT}
    started = clock.now_s()
    text = os.fspath(source)
    options |= {"source": text, "out": None if out is None else os.fspath(out)}
    if coordinator is not None:
        _require_defaults(options)
        options |= coordinator.arguments
    check_deadline(deadline)
    require_seconds("max pause", max_pause, PAUSE_MAX_S)
    if leave_stopped and not pause:
        raise UsageError(f"{text}: only a VM that is paused is left stopped; add --pause")
    if listener is None and (storage := _may_stall(text, out)) is not None:
        from pagecheck import aside

        return aside.scan(storage, options, progress)
    with contextlib.ExitStack() as stack:
        opened = open_scanned(
            stack, text, page_size, offset, length, format, trust_path=trust_path, swapped=swapped
        )
        check_vm(opened, kind, pause=pause, gpa=gpa)
        _notify("blocks", [found.ram for found in opened.blocks])
        output = _output(stack, out, opened, kind)
        scanner = coordinator or _started(stack, opened, options, started)
        if scanner is None:
            report = _nothing_decided(opened, options, clock.now_s() - started)
        else:
            after = None if coordinator is None else stack  # else they end with their coordinator
            parts = _attach(scanner, opened, options["holes"], after, gpa=gpa)
            report = _scan_parts(scanner, parts, opened, options, started, progress)
        report = _with_unreadable(report, opened, gpa=gpa)
        if output is not None:
            report = output.write(report)
        _notify("report", report)
        return report


def _require_defaults(options: dict[str, Any]) -> None:
    """Raises UsageError where something is chosen that the coordinator has chosen already."""
    for name, default in _START.items():
        if options[name] != default and (default != () or options[name]):
            raise UsageError(f"{name}: is the coordinator's to choose; drop it or the coordinator")


def _started(
    stack: contextlib.ExitStack, opened: Opened, options: dict[str, Any], started: float
) -> Coordinator | None:
    """A coordinator for this scan, its workers ready; None where the deadline passed before.

    Args:
        stack: ends it.
        options: the arguments of `scan` by name.
        started: `clock.now_s` when the scan began.
    """
    channels = options["channels"]
    if channels is None and not options["wq"]:
        sizes = (min(found.ram.size, found.source.allocated) for found in opened.blocks)
        channels = options["channels"] = default_channels(sum(sizes))
    start = {name: options[name] for name in _START}
    count = min(len(options["wq"]), CHANNELS_MAX) if channels is None else channels
    check_start(**{**start, "channels": count})
    first = None
    if options["engine"] != "none":
        from pagecheck.coordinator.worker import start_ahead

        first = start_ahead(stack)
    coordinator = _start(start, options["deadline"], started, first)
    if coordinator is not None:
        stack.callback(coordinator.close)  # enter_context loads inspect from Python 3.15 on
    return coordinator


def _scan_parts(
    scanner: Coordinator,
    parts: Sequence[Part],
    opened: Opened,
    options: dict[str, Any],
    started: float,
    progress: Progress | None,
) -> Report:
    from pagecheck.coordinator.runner import Request, run_scan

    request = Request(
        opened.text,
        kind=options["kind"],
        max_rate=options["max_rate"],
        deadline=options["deadline"],
        max_pause=options["max_pause"],
        leave_stopped=options["leave_stopped"],
        started=started,
    )
    pauser = opened.vm if options["pause"] else None
    return run_scan(scanner, parts, request, pauser, progress)


def _start(
    start: dict[str, Any],
    deadline: float | None,
    started: float,
    first: WorkerProcess | None,
) -> Coordinator | None:
    """The coordinator, its workers ready; None where the deadline passed before they were."""
    from pagecheck.coordinator.coordinator import Coordinator

    most = START_S if deadline is None else min(deadline, START_S)
    try:
        return Coordinator.taking_over(first, start_timeout=most, **start)
    except StartTimeout:
        if deadline is None or clock.now_s() - started < deadline:
            raise
        return None


def _attach(
    coordinator: Coordinator,
    opened: Opened,
    holes: Holes,
    after: contextlib.ExitStack | None,
    *,
    gpa: bool,
) -> list[Part]:
    """The blocks as the coordinator knows them, which now owns their files.

    Args:
        after: detaches them.
    """
    from pagecheck.coordinator.runner import Part

    # One pass: for the CPU, reading costs less than mapping, whose pages would each fault once.
    # A device can only read what is mapped.
    access: Access = "auto" if coordinator.engine == "dsa" else "read"
    parts: list[Part] = []
    for found in opened.blocks:
        block = coordinator.attach(
            found.source,
            page_size=opened.page_size,
            offset=found.ram.start,
            length=found.ram.size,
            holes=holes,
            access=access,
        )
        if after is not None:
            after.callback(coordinator.detach, block)
        parts.append(Part(block, opened.vm, found.regions if gpa else ()))
    return parts


def _may_stall(source: str, out: str | os.PathLike[str] | None) -> str | None:
    """The kind of a file system that may never answer, if the scan has to do with one."""
    kind = mounts.source_may_stall(source)
    return kind or (None if out is None else mounts.may_stall(os.fspath(out)))


def _notify(what: str, value: Any) -> None:
    if listener is not None:
        listener(what, value)


def _output(
    stack: contextlib.ExitStack, out: str | os.PathLike[str] | None, opened: Opened, kind: Kind
) -> Output | None:
    """The results' folder, checked before any work is done; the stack closes it."""
    if out is None:
        return None
    from pagecheck.report.bitmap_files import Output

    names = [found.ram.name for found in opened.blocks]
    names += [each.name for each in opened.vm.unreadable] if opened.vm is not None else []
    files = [f"/proc/self/fd/{each.source.fd}" for each in opened.blocks if each.source.is_file]
    return stack.enter_context(Output(out, names, kind, files))


def _nothing_decided(opened: Opened, options: dict[str, Any], seconds: float) -> Report:
    """The deadline passed while the workers started."""
    from pagecheck.coordinator.runner import asked_again
    from pagecheck.report.report import undecided_report

    notes = [note for found in opened.blocks for note in found.source.notes]
    notes.append("the deadline passed before the workers were ready: every page is undecided")
    blocks = [found.ram for found in opened.blocks]
    channels = options["channels"] or len(options["wq"])
    report = undecided_report(opened.text, blocks, options["engine"], channels, seconds, notes)
    if options["gpa"]:
        located = zip(report.blocks, opened.blocks, strict=True)
        report = report.with_blocks(tuple(b._replace(regions=f.regions) for b, f in located))
    return report if opened.vm is None else asked_again(report, [opened.vm])


def _with_unreadable(report: Report, opened: Opened, *, gpa: bool) -> Report:
    """The report with what is known of the VM's other blocks, which are undecided."""
    if opened.vm is None:
        return report
    from pagecheck.report.report import undecided_block

    hidden = [
        undecided_block(
            make_block(each.name, each.size, opened.page_size), each.regions if gpa else ()
        )
        for each in opened.vm.unreadable
    ]
    return report.with_vm(opened.vm.notes, hidden)
