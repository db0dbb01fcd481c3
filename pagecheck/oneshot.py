"""`pagecheck.scan`: one source, once, with everything that it needs started and ended."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck import clock
from pagecheck.coordinator.coordinator import Coordinator
from pagecheck.coordinator.settings import Engine, default_channels
from pagecheck.errors import SourceError, StartTimeout, UsageError
from pagecheck.model import Region
from pagecheck.plan import make_block
from pagecheck.shm import mounts
from pagecheck.shm.ram import RamSource, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pagecheck.coordinator.scan import Progress, ScanResult
    from pagecheck.model import Access, Format, Holes, Kind, RamBlock
    from pagecheck.report.bitmap_files import Output
    from pagecheck.report.report import Report
    from pagecheck.vmm import Vm
    from pagecheck.vmm.stopped import Stopped

# In a process that may have to be left behind: is told of "blocks" (their RamBlocks) once they are
# known, and of the "report" before anything is closed.
listener: Callable[[str, Any], None] | None = None

START_S: Final = 30.0
MAX_PAUSE_S: Final = 5.0


class _Part(NamedTuple):
    """One block that is to be scanned, and its open file."""

    source: RamSource
    ram: RamBlock
    regions: tuple[Region, ...]


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
) -> Report:
    """Decides every page of a RAM snapshot or of a running VM's RAM.

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
        trust_path: you vouch for the paths that QEMU tells (`qmp:` only): they are opened where
            nothing proves which file its RAM is, and the report says so.
        format: `auto` refuses a file that is certainly no raw RAM (a disk image, a core, a VM
            state, an archive, compressed data) and notes a doubt; `raw` takes any file for raw RAM.
            Not for `pid:` and `qmp:`, whose RAM is RAM.
        out: a folder for the bitmap files and `report.json`; the report then names the files. The
            folder is made, and proved to be writable, before the scan.

    The other arguments are those of `Coordinator`, `Coordinator.attach` and `Coordinator.scan`.

    Returns:
        The report; nothing else is left of the scan.

    Raises:
        StorageStalled: the file's, or `out`'s, file system may stall (FUSE, a network) and did not
            answer before the deadline; then a process of its own is left behind until it does.
        PagecheckError: the subclass says whose fault it is.
    """
    options = {name: value for name, value in locals().items() if name != "progress"}
    started = clock.now_s()
    text = os.fspath(source)
    options |= {"source": text, "out": None if out is None else os.fspath(out)}
    if deadline is not None and not deadline > 0:
        raise UsageError(f"deadline {deadline}: must be more than 0 seconds")
    if not 0 < max_pause < 1e9:
        raise UsageError(f"max pause {max_pause}: must be more than 0 seconds")
    if leave_stopped and not pause:
        raise UsageError(f"{text}: only a VM that is paused is left stopped; add --pause")
    if listener is None and (storage := _may_stall(text, out)) is not None:
        from pagecheck import aside

        return aside.scan(storage, options, progress)
    with contextlib.ExitStack() as stack:
        parts, vm = _open(stack, text, page_size, offset, length, format, trust_path=trust_path)
        _check_vm(text, vm, parts, kind, pause=pause, gpa=gpa)
        _tell("blocks", [part.ram for part in parts])
        output = _output(out, parts, vm, kind)
        if output is not None:
            stack.enter_context(output)
        if channels is None and not wq:
            channels = default_channels(sum(min(p.ram.size, p.source.allocated) for p in parts))
        try:
            coordinator = Coordinator(
                channels,
                engine,
                wq=wq,
                fallback=fallback,
                kernel=kernel,
                batch_pages=batch_pages,
                nice=nice,
                stall=stall,
                start_timeout=START_S if deadline is None else min(deadline, START_S),
            )
        except StartTimeout:
            if deadline is None or clock.now_s() - started < deadline:
                raise
            asked = "dsa" if engine == "dsa" else "cpu"
            seconds = clock.now_s() - started
            report = _nothing_decided(text, parts, asked, channels or len(wq), seconds)
            report = report if vm is None else _with_vm(report, vm, page_size)
            return report if output is None else output.write(report)
        stack.enter_context(coordinator)
        # One pass: for the CPU, reading costs less than mapping, whose pages would each fault once.
        # A device can only look at what is mapped.
        access: Access = "auto" if coordinator.engine == "dsa" else "read"
        blocks = [
            coordinator.attach(
                part.source,
                page_size=page_size,
                offset=part.ram.start,
                length=part.ram.size,
                holes=holes,
                access=access,
            )
            for part in parts
        ]
        from pagecheck.coordinator.reporting import make_report

        ready = clock.now_s()
        done = 0
        results: list[ScanResult] = []
        total = sum(part.ram.size for part in parts)

        def watch(bytes_done: int, _size: int) -> None:
            if progress is not None:
                progress(done + bytes_done, total)

        stopped = None
        if vm is not None and pause:
            from pagecheck.vmm.stopped import Stopped

            stopped = Stopped(vm, max_pause, leave=leave_stopped)
        with stopped or contextlib.nullcontext():
            for block in blocks:
                used = clock.now_s() - started
                left = None if deadline is None else max(deadline - used, 1e-9)
                results.append(
                    coordinator.scan_block(
                        block, kind=kind, max_rate=max_rate, deadline=left, progress=watch
                    )
                )
                done += block.ram.size
        report = make_report(
            coordinator,
            text,
            results,
            started,
            ready,
            stood_still=stopped is not None and stopped.hint is None,
        )
        if gpa:
            located = zip(report.blocks, parts, strict=True)
            report = report.with_blocks(tuple(replace(b, regions=p.regions) for b, p in located))
        if stopped is not None:
            report = _paused(report, stopped)
        if vm is not None:
            report = _with_vm(report, vm, page_size, gpa=gpa)
        if output is not None:
            report = output.write(report)
        _tell("report", report)
        return report


def _may_stall(source: str, out: str | os.PathLike[str] | None) -> str | None:
    """The kind of a file system that may never answer, if the scan has to do with one."""
    kind = mounts.source_may_stall(source)
    return kind or (None if out is None else mounts.may_stall(os.fspath(out)))


def _tell(what: str, value: Any) -> None:
    if listener is not None:
        listener(what, value)


def _output(
    out: str | os.PathLike[str] | None, parts: list[_Part], vm: Vm | None, kind: Kind
) -> Output | None:
    """Where results go, looked at before any work is done."""
    if out is None:
        return None
    from pagecheck.report.bitmap_files import Output

    names = [part.ram.name for part in parts]
    names += [each.name for each in vm.unreadable] if vm is not None else []
    return Output(out, names, kind, [f"/proc/self/fd/{part.source.fd}" for part in parts])


def _open(
    stack: contextlib.ExitStack,
    text: str,
    page_size: int,
    offset: int,
    length: int | None,
    format: Format,
    *,
    trust_path: bool,
) -> tuple[list[_Part], Vm | None]:
    """Opens the source; the stack closes it."""
    if trust_path and not text.startswith("qmp:"):
        raise UsageError(f"{text}: --trust-path is for the paths that QEMU tells, with qmp:SOCKET")
    if not text.startswith(("pid:", "qmp:")):
        ram = open_source(text, format)
        stack.callback(ram.close)
        try:
            block = make_block(ram.name, ram.size, page_size, offset, length)
        except SourceError as error:  # of a wrong size; what the file may be instead is known
            raise SourceError("; ".join((str(error), *ram.notes))) from error
        return [_Part(ram, block, ())], None
    if offset or length is not None:
        raise UsageError(
            f"{text}: the VM says what its RAM is; --offset and --length are for files"
        )
    from pagecheck.vmm import open_vm

    vm = stack.enter_context(open_vm(text, trust_path=trust_path))
    parts = [
        _Part(
            ram.source,
            make_block(ram.source.name, ram.source.size, page_size, ram.start, ram.size),
            ram.regions,
        )
        for ram in vm.rams
    ]
    for each in vm.unreadable:  # before a scan, not after it
        make_block(each.name, each.size, page_size)
    return parts, vm


def _check_vm(
    text: str, vm: Vm | None, parts: list[_Part], kind: Kind, *, pause: bool, gpa: bool
) -> None:
    if vm is not None and kind == "diff":
        raise UsageError(f"{text}: a VM's RAM is no diff snapshot: its holes are zero")
    if pause and (vm is None or not vm.can_pause):
        raise UsageError(
            f"{text}: only QEMU can be paused from here: give qmp:SOCKET, or pause it with the "
            "VMM's own tool"
        )
    if gpa and not all(part.regions for part in parts):
        raise UsageError(
            f"{text}: guest-physical addresses are known for qmp:SOCKET only; drop --gpa"
        )


def _paused(report: Report, stopped: Stopped) -> Report:
    """The report with what the pause was worth."""
    if stopped.hint is None:
        return replace(report, answer="paused", pause=stopped.pause)
    notes = (*report.notes, stopped.hint)
    return replace(report, answer="live", pause=stopped.pause, notes=notes)


def _with_vm(report: Report, vm: Vm, page_size: int, *, gpa: bool = False) -> Report:
    """The report with what is known of the VM: blocks that cannot be looked at are undecided, and
    so is everything where there is doubt whether it had arrived."""
    from pagecheck.report.report import undecided_block

    blocks, notes = list(report.blocks), [*vm.notes, *report.notes, *vm.changes()]
    if (why := vm.doubt()) is not None:
        notes.append(f"{why}: every page is undecided")
        blocks = [undecided_block(each.block, each.regions) for each in blocks]
    for ram in vm.unreadable:
        block = make_block(ram.name, ram.size, page_size)
        blocks.append(undecided_block(block, ram.regions if gpa else ()))
    return replace(report, blocks=tuple(blocks), notes=tuple(notes))


def _nothing_decided(
    text: str, parts: list[_Part], engine: str, channels: int, seconds: float
) -> Report:
    """The deadline passed while the workers started."""
    from pagecheck.report.report import Report, undecided_block

    return Report(
        source=text,
        answer="live",
        engine=engine,
        kernel=None,
        channels=channels,
        page_size=parts[0].ram.page_size,
        seconds=seconds,
        startup_seconds=seconds,
        bytes_checked=0,
        blocks=tuple(undecided_block(part.ram) for part in parts),
        notes=(
            *(note for part in parts for note in part.source.notes),
            "the deadline passed before the workers were ready: every page is undecided",
        ),
    )
