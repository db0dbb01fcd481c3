"""`pagecheck.punch`: zero pages released to the host, as holes.

With a restore, this is all that writes into RAM which is not ours. What is written between the look
at a page and its hole is lost, so it has to be certain that nobody writes.

Facts: no system call makes a hole only where there are zeros. A write lease (F_SETLEASE) on a file
is granted only while nobody else has it open, for whatever purpose; a mapping keeps its file open.
Whoever wants to open or truncate it then waits until we release it, at most for lease-break-time;
after that the lease is gone, which the kernel tells. The RAM of a VM is mapped by its VMM all the
time, so that no lease can be had; while a VM is stopped, its processors and the devices that its
VMM emulates write nothing, nor do vhost's kernel threads, which are stopped with it. A device that
was given to the guest (VFIO, vDPA) or that another process emulates (vhost-user) is not.
Danger: a process that is stopped (SIGSTOP) between look and hole, while the VM's longest pause, or
the lease's, passes. Decision: a file is punched under a lease that is asked for again before each
hole, and refused where it cannot be had, unless the user vouches for it; a VM's RAM is punched by
its watchdog, the one process that may continue the VM, which is what it does either of, never both;
never where something else may write. There one look at a page is proof, and it is taken right
before the hole: what a scan found earlier, while the guest ran, only says where to look. What is a
hole already is left alone, space that was reserved for it, too. Nothing is punched below what the
backing can take away (a block, a huge page), and runs of any length are: each 4 KiB is a page.
Left unhandled: another client of the VMM that continues the VM during the pause; within the window
(2 MiB, less than a millisecond) that is looked at then, a store may be lost.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.errors import UsageError
from pagecheck.model import is_vm_source
from pagecheck.plan import (
    PAUSE_MAX_S,
    check_page_size,
    require_qmp,
    require_rate,
    require_seconds,
)
from pagecheck.snapshot.punch_file import FilePuncher, leased, open_writable, unit_of
from pagecheck.snapshot.punch_report import PunchedBlock, PunchReport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.coordinator import Coordinator
    from pagecheck.coordinator.settings import Engine
    from pagecheck.model import Format
    from pagecheck.shm.ram import RamSource
    from pagecheck.snapshot.punch_file import Progress

MAX_PAUSE_S: Final = 5.0


def punch(
    source: str | os.PathLike[str],
    *,
    page_size: int = 4096,
    dry_run: bool = False,
    nobody_writes: bool = False,
    max_pause: float = MAX_PAUSE_S,
    max_rate: int | None = None,
    format: Format = "auto",
    trust_path: bool = False,
    engine: Engine = "auto",
    wq: Sequence[str] = (),
    fallback: bool = False,
    kernel: str | None = None,
    channels: int | None = None,
    nice: int = 0,
    stall: float = 30.0,
    progress: Progress | None = None,
    coordinator: Coordinator | None = None,
) -> PunchReport:
    """Makes holes of the zero pages of a file, or of a VM's shared RAM.

    Args:
        source: a path, `fd:N`, `shm:/name`, or the socket of a VMM, as of `pagecheck.scan`.
        page_size: bytes of the smallest hole, a power of two; more where the file's backing has
            larger blocks or pages.
        dry_run: nothing is changed; what would be is found by a scan.
        nobody_writes: you vouch that nobody writes to the file meanwhile, although it is open or
            mapped elsewhere, or that cannot be known. Not for a VM.
        max_pause: seconds for which a VM may be stopped; what is not done by then is left.
        max_rate: bytes per second that are looked at; not while a VM is stopped.
        format, trust_path: as of `pagecheck.scan`.
        progress: called about ten times a second with (bytes done, bytes in all).
        coordinator: whose workers look for zero pages while a VM runs, or in a dry run; it stays
            open. What its workers are started with is chosen when it is made.

    The other arguments are those of `Coordinator`, for the same.

    Returns:
        The report. What was punched stays so, also where an error or a signal ended it: it was
        zero.

    Raises:
        UsageError: an argument is out of range or does not go with the source.
        SourceError: the source cannot be written, is in use, or something else may write to it.
        PagecheckError: the subclass says whose fault it is.
    """
    text = os.fspath(source)
    check_page_size(page_size)
    require_seconds("max pause", max_pause, PAUSE_MAX_S)
    require_rate(max_rate)
    start = {"engine": engine, "wq": wq, "fallback": fallback, "kernel": kernel}
    start |= {"channels": channels, "nice": nice, "stall": stall}
    if is_vm_source(text):
        if nobody_writes:
            raise UsageError(f"{text}: a VM is stopped while it is punched; drop --nobody-writes")
        from pagecheck.snapshot.punch_vm import Wanted, punch_vm
        from pagecheck.vmm import open_vm

        wanted = Wanted(page_size, dry_run, max_pause, max_rate, progress, start, coordinator)
        with open_vm(text, trust_path=trust_path) as vm:
            return punch_vm(vm, wanted)
    if trust_path:
        require_qmp(text)
    options: dict[str, Any] = {"max_rate": max_rate, "progress": progress, "format": format}
    options["start"] = start if coordinator is None else {"coordinator": coordinator}
    return _punch_file(text, page_size, options, dry_run=dry_run, nobody_writes=nobody_writes)


def _punch_file(
    text: str, page_size: int, options: dict[str, Any], *, dry_run: bool, nobody_writes: bool
) -> PunchReport:
    started = clock.now_s()
    with open_writable(text, options["format"], nobody_writes=nobody_writes) as source:
        unit = unit_of(source.fd, page_size)
        before = source.allocated
        notes = source.notes
        if dry_run:
            with contextlib.nullcontext() if nobody_writes else leased(source):
                size = source.size
            zero, lost = _zero_bytes(text, size, unit, options), False
        else:
            zero, lost = _punched(source, unit, options, has_lease=not nobody_writes)
        block = PunchedBlock(
            source.name, source.size, unit, zero, before, before if dry_run else source.allocated
        )
    return PunchReport(
        text,
        "user" if nobody_writes else "lease",
        dry_run,
        clock.now_s() - started,
        (block,),
        why_incomplete=_LOST if lost else None,
        notes=notes,
    )


_LOST = "another process wants to open the file, or it was truncated"


def _punched(
    source: RamSource, unit: int, options: dict[str, Any], *, has_lease: bool
) -> tuple[int, bool]:
    """What was zero, and whether the lease was lost before the end."""
    with leased(source) if has_lease else contextlib.nullcontext():
        puncher = FilePuncher(source, unit, has_lease=has_lease)
        puncher.run(options["max_rate"], options["progress"])
    return puncher.zero_bytes, puncher.lost


def _zero_bytes(text: str, size: int, unit: int, options: dict[str, Any]) -> int:
    """What a scan finds to be zero and no hole."""
    from pagecheck.oneshot import scan

    length = size - size % unit
    if not length:
        return 0
    more = {name: options[name] for name in ("max_rate", "progress", "format")}
    found = scan(text, page_size=unit, length=length, **more, **options["start"]).total
    return (found.zero - found.hole) * unit
