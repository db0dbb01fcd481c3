"""`pagecheck.Client`: the service's Python side."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.errors import PagecheckError
from pagecheck.model import Region, is_vm_source
from pagecheck.plan import require_qmp, require_regions
from pagecheck.service.passing import passed_on, require_same
from pagecheck.service.protocol import close_all
from pagecheck.service.replies import (
    Attached,
    Checked,
    Members,
    RemoteBlock,
    attached,
    checked,
    remote_block,
)
from pagecheck.service.requests import NEVER_NS, Requests

if TYPE_CHECKING:
    from pagecheck.model import Format, Kind, Swapped
    from pagecheck.report.report import Report
    from pagecheck.service.remote_channel import RemoteChannel
    from pagecheck.snapshot.save_report import SaveReport
    from pagecheck.snapshot.vm_parts import Compress, Disks

CHECK_REPLY_S: Final = 30.0  # beyond the deadline of a check

Progress = Callable[[int, int], None]


class Client(Requests):
    """A connection to a service; a context manager. What it attached is detached when it closes.

    Several threads may use one client; their commands wait for each other.

    Attributes:
        greeting: what the service reported of itself: version, protocol, layout, layouts,
            capabilities, limits.
    """

    def attach(
        self,
        source: str | os.PathLike[str] | int,
        *,
        name: str | None = None,
        page_size: int = 4096,
        offset: int = 0,
        length: int | None = None,
        regions: Iterable[Region] = (),
        holes: str = "trust",
        access: str = "auto",
        trust_path: bool = False,
        swapped: Swapped = "leave",
        format: Format = "auto",
    ) -> Attached:
        """Makes guest RAM known to the service.

        Args:
            source: a descriptor of a memfd or of a file on tmpfs or hugetlbfs, which stays the
                caller's; or a path, `shm:/name`, `pid:PID[:NAME]` or a VMM's socket (`qmp:`,
                `fc:` or `ch:SOCKET`). A file on tmpfs is opened here and passed on. A VM, by its
                process or its VMM's socket, is opened
                by the service with our rights; everything else by its own, for root and its own
                user only.
            name: of the block, for messages and reports; by default the source's.
            offset, length: the part of the source, in bytes, multiples of the page size; not for
                a running VM.
            regions: where its parts lie in guest-physical memory.
            holes: as in `Coordinator.attach`, with `page_size`.
            access: `read` for a single pass, see `Coordinator.attach`.
            trust_path, swapped: see `pagecheck.scan`.
            format: of a named file: `auto` refuses one that is certainly not raw RAM, `raw` takes
                any. A descriptor is taken for RAM.

        Returns:
            One block; as many as can be read for a running VM.

        Raises:
            SourceError, UsageError, LimitError, AccessError: it is not taken; the text says why. So
                is a path, socket or process that is another one to the service.
        """
        arguments: dict[str, Any] = {"page_size": page_size, "holes": holes, "access": access}
        given = [region._asdict() for region in regions]
        arguments |= _asked_for(name=name, offset=offset or None, size=length)
        arguments |= _asked_for(regions=given or None, trust_path=trust_path or None)
        if swapped != "leave":
            self.require_capability("swapped")
            arguments["swapped"] = swapped
        with contextlib.ExitStack() as stack:
            fds, notes = passed_on(self, stack, source, arguments, format)
            self.require_trusted()
            reply, received = self.execute("attach", arguments, fds)
            close_all(received)
        found = attached(reply, page_size)
        if isinstance(source, int) or not is_vm_source(os.fspath(source)):
            require_same(found, offset, length)
        return Attached(map(self.own, found), found.unreadable, (*notes, *found.notes))

    @contextlib.contextmanager
    def _attached(self, source: str | os.PathLike[str], **how: Any) -> Iterator[Attached]:
        """The source attached, with the arguments of `attach`, and detached at the end."""
        blocks = self.attach(source, **how)
        try:
            yield blocks
        finally:
            with contextlib.suppress(PagecheckError):
                for block in blocks:
                    self.detach(block)

    def detach(self, block: RemoteBlock) -> None:
        """Detaches the block.

        Raises:
            UsageError: the block is another connection's.
            PeerError: the service is gone, or does not answer.
        """
        self.require_own(block)
        self.execute("detach", {"block": block.number})

    def check(
        self,
        blocks: Sequence[RemoteBlock],
        *,
        ranges: Sequence[dict[str, int]] | None = None,
        bitmap: int | None = None,
        kind: str = "full",
        max_rate: int | None = None,
        deadline: float | None = None,
        pause: bool = False,
        max_pause: float | None = None,
        leave_stopped: bool = False,
        progress: Progress | None = None,
    ) -> Checked:
        """Decides pages of one block or more.

        Args:
            ranges: of the only block: `{"first": page, "count": pages}`, or
                `{"gpa": address, "size": bytes}` where its regions are known.
            bitmap: of the only block: a descriptor of shared memory whose bits select pages: bit
                i % 64 of the little-endian uint64 word i / 64 is page i.
            kind: in a `full` snapshot a hole is zero, in a `diff` it is unchanged.
            max_rate: bytes per second that may be read.
            deadline: seconds; pages not answered by then are undecided.
            pause: stop the VM meanwhile; for blocks attached by their VMM's socket.
            max_pause: seconds; then the VM runs on, and the answer is a hint.
            leave_stopped: with `pause`: the VM stays stopped, if the check ends well.
            progress: called with (bytes done, bytes in all) when the service reports progress.

        Returns:
            Counts and bitmaps of every block.

        Raises:
            UsageError: a block is another connection's.
            PagecheckError: the subclass says whose fault it is.
        """
        for block in blocks:
            self.require_own(block)
        if leave_stopped:
            self.require_capability("leave-stopped")
        arguments = {
            "blocks": [block.number for block in blocks],
            "kind": kind,
            "pause": pause,
            "bitmap": bitmap is not None,
            "progress": progress is not None,
        }
        arguments |= _asked_for(ranges=ranges, max_rate=max_rate, deadline=deadline)
        arguments |= _asked_for(max_pause=max_pause, leave_stopped=leave_stopped or None)
        reply, fds = self.execute(
            "check",
            arguments,
            [] if bitmap is None else [bitmap],
            timeout=None if deadline is None else deadline + CHECK_REPLY_S,
            on_event=None if progress is None else _reporting(progress),
        )
        try:
            return checked(reply, fds, blocks, whole=ranges is None and bitmap is None)
        finally:
            close_all(fds)

    def scan(
        self,
        source: str | os.PathLike[str],
        *,
        page_size: int = 4096,
        offset: int = 0,
        length: int | None = None,
        kind: Kind = "full",
        holes: str = "trust",
        max_rate: int | None = None,
        deadline: float | None = None,
        pause: bool = False,
        max_pause: float | None = None,
        leave_stopped: bool = False,
        gpa: bool = False,
        trust_path: bool = False,
        swapped: Swapped = "leave",
        format: Format = "auto",
        out: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """As `pagecheck.scan`, by the service's workers and engine.

        Args:
            source: as in `attach`, but for a descriptor.
            max_pause: seconds; by default the service's limit.

        The other arguments are those of `pagecheck.scan`.

        Returns:
            The report; `workers` is empty, since the service's workers have other clients, too.

        Raises:
            PagecheckError: the subclass says whose fault it is; the service's errors are of the
                same classes as a local scan's.
        """
        if trust_path:
            require_qmp(os.fspath(source))
        ram = {
            "page_size": page_size,
            "offset": offset,
            "length": length,
            "holes": holes,
            "access": "read",
            "trust_path": trust_path,
            "swapped": swapped,
            "format": format,
        }
        pages: dict[str, Any] = {"kind": kind, "max_rate": max_rate, "deadline": deadline}
        pages |= {"pause": pause, "max_pause": max_pause if pause else None}
        pages |= {"leave_stopped": leave_stopped, "progress": progress}
        return self._scan(os.fspath(source), ram, pages, gpa=gpa, out=out)

    def _scan(
        self,
        source: str,
        ram: dict[str, Any],
        pages: dict[str, Any],
        *,
        gpa: bool,
        out: str | os.PathLike[str] | None,
    ) -> Report:
        """Attaches, checks and detaches the source.

        Args:
            ram: arguments of `attach`.
            pages: arguments of `check`.
        """
        from pagecheck.service.remote_report import as_report, output_for

        started = clock.now_s()
        output = None
        with contextlib.ExitStack() as stack:
            with self._attached(source, **ram) as blocks:
                if gpa:
                    require_regions(source, [block.regions for block in blocks])
                if out is not None:
                    output = stack.enter_context(output_for(out, source, blocks, pages["kind"]))
                ready = clock.now_s()
                found = self.check(blocks, **pages)
            times = (clock.now_s() - started, ready - started)
            report = as_report(source, blocks, found, ram["page_size"], times, gpa=gpa)
            return report if output is None else output.write(report)

    def save(
        self,
        source: str | os.PathLike[str],
        directory: str | os.PathLike[str],
        *,
        live: bool = False,
        disks: Disks | None = None,
        compress: Compress | None = None,
        max_pause: float | None = None,
        max_rate: int | None = None,
        page_size: int = 4096,
        trust_path: bool = False,
        progress: Progress | None = None,
    ) -> SaveReport:
        """As `pagecheck.save` of a running VM, which the service stops and reads.

        The directory and its files are made here, with our own rights; the service gets
        descriptors of them, which must be of a disk. It saves for those who may read the VM's
        memory, and it ends no VM.

        Args:
            max_pause: seconds; by default the service's limit.

        The other arguments are those of `pagecheck.save`.

        Raises:
            AccessError: the VM may not be saved by us.
            PagecheckError: the subclass says whose fault it is.
        """
        from pagecheck.service.remote_save import Asked, require_possible, save_blocks

        started = clock.now_s()
        asked = Asked(
            source=os.fspath(source),
            directory=os.fspath(directory),
            live=live,
            disks=disks,
            compress=compress,
            max_pause=max_pause,
            max_rate=max_rate,
            page_size=page_size,
            progress=progress,
        )
        require_possible(self, asked)
        how: Any = {"page_size": page_size, "trust_path": trust_path}
        with self._attached(source, swapped="read", access="read", **how) as blocks:
            report = save_blocks(self, blocks, asked, lambda: self.check(blocks))
        return report._replace(seconds=clock.now_s() - started)

    def open_channel(
        self, *, slots: int = 16, slot_pages: int = 128, spin_us: int = 0
    ) -> RemoteChannel:
        """Opens a direct channel: batches go to a worker of its own through shared memory.

        Args:
            slots: batches that may be in progress at once, 1 to 256.
            slot_pages: the most pages of a batch, 1 to 65536; rounded up to a multiple of 64.
            spin_us: microseconds that both sides poll before they sleep, 0 to 1000.

        Raises:
            UsageError: an argument is out of range.
            LimitError: the service, or this client, has as many channels as it may have.
            PeerError: the service has no layout of channels that we know.
        """
        from pagecheck.service.remote_channel import open_channel

        return open_channel(self, slots, slot_pages, spin_us)

    def blocks(self) -> list[RemoteBlock]:
        """The blocks that this client has attached."""
        reply, _fds = self.execute("query-blocks")
        given = Members(reply, "the answer to query-blocks")
        return [self.own(block) for block in given.each("blocks", remote_block)]

    def stats(self) -> dict[str, Any]:
        """What the service has counted; root and its own user get every client."""
        reply, _fds = self.execute("query-stats")
        return reply


def _asked_for(**optional: Any) -> dict[str, Any]:
    """The arguments that were given, so that older services take the request too."""
    return {name: value for name, value in optional.items() if value is not None}


def _reporting(progress: Progress) -> Callable[[dict[str, Any]], None]:
    def on_event(event: dict[str, Any]) -> None:
        given = Members(event, "the progress of check")
        progress(*(given.integer(name, 0, NEVER_NS) for name in ("done", "bytes")))

    return on_event
