"""`pagecheck.save`: the RAM of a VM, or a file of raw guest RAM, saved as a snapshot."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, get_args

from pagecheck import clock
from pagecheck.coordinator import Coordinator
from pagecheck.coordinator.settings import Engine, check_choice, default_channels
from pagecheck.errors import SourceError, UsageError
from pagecheck.model import Format, is_vm_source
from pagecheck.oneshot import MAX_PAUSE_S
from pagecheck.plan import PAUSE_MAX_S, require_rate, require_seconds
from pagecheck.shm import mounts
from pagecheck.shm.ram import RamSource
from pagecheck.shm.rest import Rest
from pagecheck.snapshot.directory import NewDirectory
from pagecheck.snapshot.ram_files import zstd
from pagecheck.snapshot.save_report import SaveReport
from pagecheck.snapshot.saving import Saving, Wanted, not_at_rest
from pagecheck.snapshot.vm_parts import Compress, Disks, RamAlone, Then, VmParts
from pagecheck.sources import Opened, open_scanned

if TYPE_CHECKING:
    from pagecheck.coordinator.scan import Progress
    from pagecheck.vmm import Vm
    from pagecheck.vmm.process.memory import Admit

# In a process that may have to be left behind: called with "paused" and the seconds that a pause
# may last, None once it is over; and with the "report" or the "error" before anything is closed,
# which may last for ever.
listener: Callable[[str, Any], None] | None = None

_NOT_SENT: Final = ("progress", "coordinator")  # to a process that saves aside
_START: Final = ("engine", "wq", "fallback", "kernel", "channels", "nice", "stall")  # of workers
COPY_COST: Final = 4  # of a byte that is copied, in bytes that are looked at
QUIT_MAX_PAUSE_S: Final = 600.0  # a VM that is going to end may be stopped while it is synced


def save(
    source: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    live: bool = False,
    disks: Disks | None = None,
    then: Then = "run",
    compress: Compress | None = None,
    max_pause: float | None = None,
    max_rate: int | None = None,
    page_size: int = 4096,
    trust_path: bool = False,
    format: Format = "auto",
    engine: Engine = "auto",
    wq: Sequence[str] = (),
    fallback: bool = False,
    kernel: str | None = None,
    channels: int | None = None,
    nice: int = 0,
    stall: float = 30.0,
    progress: Progress | None = None,
    coordinator: Coordinator | None = None,
) -> SaveReport:
    """Saves a VM, or a file of raw guest RAM, in a new directory, without its zero pages.

    A VM is stopped meanwhile, and runs again afterwards, whatever becomes of us, unless it was
    stopped before. Of QEMU the devices' state is saved too, so that the snapshot can be restored.

    Args:
        source: as of `pagecheck.scan`, but for `pid:`: a VM that is saved has to be stopped by its
            VMM's socket.
        directory: the snapshot; it appears complete and synced, or not at all, and replaces
            nothing.
        live: of a VM: copy its RAM while it runs, then stop it and copy only what changed. Of a
            file: save it though others may write to it; the snapshot is not exact then.
        disks: what is done about disks that the VM can write to, whose content must be that of the
            same moment: `overlay`: from that moment on the VM writes to new files on top of
            them; `none`: nothing, you see to them yourself.
        then: `quit`: the VM ends once the snapshot is safe, and stays stopped until then, so that
            its disks stay as they are.
        compress: `zstd`: compress the RAM files, once the VM runs again, or is about to end; needs
            the package zstandard. A raw reader does not take them then.
        max_pause: seconds; then the VM runs on, and nothing is saved. By default 5, and 600 with
            `quit`, where it lasts until all is synced.
        max_rate: bytes per second of RAM that may be read, in the pause too, and of its files
            afterwards, for their checksums and to compress them.
        trust_path, format: as of `pagecheck.scan`.
        progress: called about ten times a second with (bytes done, bytes in all).
        coordinator: whose workers copy; it stays open. What its workers are started with is
            chosen when it is made.

    The other arguments are those of `Coordinator` and `Coordinator.attach`.

    Returns:
        What was saved; the directory is there.

    Raises:
        UsageError: an argument is invalid, or the VM has writable disks and `disks` is not given.
        SourceError: the source cannot be saved whole and exactly; the message tells why.
        OutputError: the directory exists, or cannot be written.
        StorageStalled: the directory's file system may stall (FUSE, a network) and did not answer
            in the pause; then a process of its own may be left behind until it does.
        PagecheckError: the subclass says whose fault it is.
    """
    options = {name: value for name, value in locals().items() if name not in _NOT_SENT}
    started = clock.now_s()
    text, path = os.fspath(source), os.fspath(directory)
    check_choice("then", then, get_args(Then))
    if disks is not None:
        check_choice("disks", disks, get_args(Disks))
    if compress is not None:
        check_choice("compress", compress, get_args(Compress))
        zstd()
    if max_pause is None:
        max_pause = MAX_PAUSE_S if then == "run" else QUIT_MAX_PAUSE_S
    require_seconds("max pause", max_pause, PAUSE_MAX_S)
    require_rate(max_rate)
    wanted = Wanted(live, then, max_pause, max_rate, compress, progress, notify)
    start = {name: options[name] for name in _START}
    if listener is None and (kind := _may_stall(text, path)) is not None:
        from pagecheck import aside

        if coordinator is not None:
            options |= {name: coordinator.arguments[name] for name in _START}
        options |= {"source": text, "directory": path}
        saved: SaveReport = aside.save(kind, options, progress)
        return saved
    with contextlib.ExitStack() as stack, _told():
        opened = _opened(stack, text, page_size, format, trust_path=trust_path)
        if opened.vm is None:
            _require_of_file(opened, wanted, disks)
            parts = None
        else:
            parts = parts_of(stack, opened.vm, disks, then)
        made = stack.enter_context(NewDirectory(path))
        scanner = coordinator or stack.enter_context(_started(opened, start))
        if scanner.engine == "none":
            raise UsageError("engine none: reads nothing, so that there is nothing to save")
        state_bytes = 0 if parts is None else parts.state_bytes
        saving = Saving(opened, made, scanner, wanted, state_bytes)
        saving.prepare(stack, None if coordinator is None else stack)
        if opened.vm is None or parts is None:
            report = saving.save_file()
        else:
            report = saving.save_vm(opened.vm, parts)
        report = report._replace(seconds=clock.now_s() - started)
        notify("report", report)
        return report


def notify(what: str, value: Any) -> None:
    """Tells the process that started this one for a save, if there is one."""
    if listener is not None:
        listener(what, value)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """An error is reported before anything is closed."""
    try:
        yield
    except Exception as error:
        notify("error", error)
        raise


def _may_stall(source: str, directory: str) -> str | None:
    """The kind of a file system that may never answer, if the save has to do with one."""
    return mounts.source_may_stall(source) or mounts.may_stall(directory)


def _opened(
    stack: contextlib.ExitStack, text: str, page_size: int, format: Format, *, trust_path: bool
) -> Opened:
    """The source, open; of a VM, all of its RAM.

    Raises:
        UsageError: the VM cannot be stopped from here.
        SourceError: a part of the RAM cannot be read.
    """
    require_socket(text)
    swapped: Any = "read" if is_vm_source(text) else "leave"
    how: Any = {"trust_path": trust_path, "swapped": swapped}
    opened = open_scanned(stack, text, page_size, 0, None, format, **how)
    if opened.vm is not None:
        require_readable(opened.vm)
    return opened


def require_socket(text: str) -> None:
    """Raises UsageError where a VM is named by its process id."""
    if text.startswith("pid:"):
        raise UsageError(
            f"{text}: is not saved by its process id, since nothing there stops it: give "
            "qmp:SOCKET, fc:SOCKET, ch:SOCKET or crosvm:SOCKET ('pagecheck vms' lists them)"
        )


def require_readable(vm: Vm) -> None:
    """Raises SourceError where a part of the RAM cannot be read."""
    if vm.unreadable:
        raise unreadable(vm.unreadable[0].why)


def unreadable(why: str) -> SourceError:
    """What to raise where a part of a VM's RAM cannot be read."""
    return SourceError(f"{why}; a snapshot without it is none")


def _require_of_file(opened: Opened, wanted: Wanted, disks: Disks | None) -> None:
    """Raises where something is asked for that only a VM has, or the file is not at rest."""
    text = opened.text
    if disks is not None or wanted.then != "run":
        raise UsageError(f"{text}: is a file; --disks and --then are for a running VM")
    if wanted.live:
        return
    for found in opened.blocks:
        if isinstance(found.source, RamSource) and (why := Rest(found.source).end()) is not None:
            raise SourceError(not_at_rest(text, why))


def _started(opened: Opened, start: dict[str, Any]) -> Coordinator:
    """A coordinator for this save alone."""
    if start["channels"] is None and not start["wq"]:
        sizes = (min(found.ram.size, found.source.allocated) for found in opened.blocks)
        start["channels"] = default_channels(sum(sizes) * COPY_COST)
    return Coordinator(**start)


def parts_of(
    stack: contextlib.ExitStack,
    vm: Vm,
    disks: Disks | None,
    then: Then,
    admit: Admit | None = None,
    *,
    touches_disks: bool = True,
) -> VmParts:
    """What is saved of this VM.

    Args:
        stack: takes back what the VMM was given for it.
        admit: as of `open_vm`.
        touches_disks: as of `QemuParts`.

    Raises:
        UsageError: what is asked for does not go with it, or more has to be said.
        SourceError: it cannot be saved; the message names what prevents it.
    """
    if vm.qemu is not None:
        from pagecheck.snapshot.qemu_parts import QemuParts

        return QemuParts(stack, vm, vm.qemu, disks, then, admit, touches_disks=touches_disks)
    return RamAlone(vm, disks, then)
