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
from pagecheck.errors import SourceError, StartTimeout, UsageError
from pagecheck.model import Region, is_vm_source
from pagecheck.plan import PAUSE_MAX_S, make_block, require_qmp, require_regions, require_seconds
from pagecheck.shm import mounts
from pagecheck.shm.ram import RamSource, open_source

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Final, NamedTuple

    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.coordinator.runner import Part
    from pagecheck.coordinator.scan import Progress
    from pagecheck.coordinator.worker import WorkerProcess
    from pagecheck.model import Access, Format, Holes, Kind, RamBlock
    from pagecheck.report.bitmap_files import Output
    from pagecheck.report.report import Report
    from pagecheck.vmm import Vm
else:
    from pagecheck.typed import NamedTuple

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


class _Found(NamedTuple):
    """One block that is to be scanned, and its open file."""

    source: RamSource
    ram: RamBlock
    regions: tuple[Region, ...]


class _Opened(NamedTuple):
    """The source, open.

    Attributes:
        blocks: the readable ones; at least one.
        vm: the running VM whose RAM they are, if it is one's.
    """

    text: str
    page_size: int
    blocks: list[_Found]
    vm: Vm | None


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
            shared guest RAM) or `qmp:SOCKET` (QEMU's blocks).
        channels: workers; by default one per work queue in `wq`, else the smallest of the usable
            CPUs, one per 256 MiB of data, and 16.
        offset, length: the part of the file; not for `pid:` and `qmp:`.
        deadline: seconds for everything, start-up included; pages not answered by then are
            undecided.
        pause: stop the VM meanwhile (`qmp:` only); it runs again afterwards, whatever becomes of
            us, unless it was stopped before.
        max_pause: seconds; then the VM runs on, and the answer is a hint.
        leave_stopped: with `pause`: the VM stays stopped once every block was scanned. Where the
            scan ends before that, by an error, a signal or our death, the VM runs on.
        gpa: the report's blocks say where they lie in guest-physical memory (`qmp:` only).
        trust_path: you vouch for the paths that QEMU reports (`qmp:` only): they are opened where
            nothing proves which file its RAM is, and the report says so.
        format: `auto` refuses a file that is certainly no raw RAM (a disk image, a core, a VM
            state, an archive, compressed data) and notes a doubt; `raw` takes any file for raw RAM.
            Not for `pid:` and `qmp:`, whose RAM is RAM.
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
        opened = _open(stack, text, page_size, offset, length, format, trust_path=trust_path)
        _check_vm(opened, kind, pause=pause, gpa=gpa)
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
    stack: contextlib.ExitStack, opened: _Opened, options: dict[str, Any], started: float
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
    opened: _Opened,
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
    opened: _Opened,
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
    stack: contextlib.ExitStack, out: str | os.PathLike[str] | None, opened: _Opened, kind: Kind
) -> Output | None:
    """The results' folder, checked before any work is done; the stack closes it."""
    if out is None:
        return None
    from pagecheck.report.bitmap_files import Output

    names = [found.ram.name for found in opened.blocks]
    names += [each.name for each in opened.vm.unreadable] if opened.vm is not None else []
    files = [f"/proc/self/fd/{found.source.fd}" for found in opened.blocks]
    return stack.enter_context(Output(out, names, kind, files))


def _open(
    stack: contextlib.ExitStack,
    text: str,
    page_size: int,
    offset: int,
    length: int | None,
    format: Format,
    *,
    trust_path: bool,
) -> _Opened:
    """Opens the source; the stack closes it."""
    if trust_path:
        require_qmp(text)
    if not is_vm_source(text):
        ram = open_source(text, format)
        stack.callback(ram.close)
        try:
            block = make_block(ram.name, ram.size, page_size, offset, length)
        except SourceError as error:  # of a wrong size; what the file may be instead is known
            raise SourceError("; ".join((str(error), *ram.notes))) from error
        return _Opened(text, page_size, [_Found(ram, block, ())], None)
    if offset or length is not None:
        raise UsageError(
            f"{text}: the VM says what its RAM is; --offset and --length are for files"
        )
    from pagecheck.vmm import open_vm

    vm = stack.enter_context(open_vm(text, trust_path=trust_path))
    blocks = [
        _Found(
            ram.source,
            make_block(ram.source.name, ram.source.size, page_size, ram.start, ram.size),
            ram.regions,
        )
        for ram in vm.rams
    ]
    for each in vm.unreadable:  # before a scan, not after it
        make_block(each.name, each.size, page_size)
    return _Opened(text, page_size, blocks, vm)


def _check_vm(opened: _Opened, kind: Kind, *, pause: bool, gpa: bool) -> None:
    text, vm = opened.text, opened.vm
    if vm is not None and kind == "diff":
        raise UsageError(f"{text}: a VM's RAM is not a diff snapshot: its holes are zero")
    if pause and (vm is None or not vm.can_pause):
        raise UsageError(
            f"{text}: only QEMU can be paused from here: give qmp:SOCKET, or pause it with the "
            "VMM's own tool"
        )
    if gpa:
        require_regions(text, [found.regions for found in opened.blocks])


def _nothing_decided(opened: _Opened, options: dict[str, Any], seconds: float) -> Report:
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


def _with_unreadable(report: Report, opened: _Opened, *, gpa: bool) -> Report:
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
