"""`pagecheck.Client`: the service's Python side."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from pagecheck import clock
from pagecheck.plan import require_qmp, require_regions
from pagecheck.service.block_requests import BlockRequests, Progress, asked_for, reporting
from pagecheck.service.protocol import close_all
from pagecheck.service.replies import Members, RemoteBlock, remote_block

if TYPE_CHECKING:
    from pagecheck.model import Format, Kind, Swapped
    from pagecheck.report.report import Report
    from pagecheck.service.remote_channel import RemoteChannel
    from pagecheck.snapshot.punch_report import PunchReport
    from pagecheck.snapshot.save_report import SaveReport
    from pagecheck.snapshot.values import Snapshot
    from pagecheck.snapshot.verify import VerifyReport
    from pagecheck.snapshot.vm_parts import Compress, Disks


class Client(BlockRequests):
    """A connection to a service; a context manager. What it attached is detached when it closes.

    Several threads may use one client; their commands wait for each other.

    Attributes:
        greeting: what the service reported of itself: version, protocol, layout, layouts,
            capabilities, limits.
    """

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

    def punch(
        self,
        source: str | os.PathLike[str],
        *,
        page_size: int = 4096,
        dry_run: bool = False,
        max_pause: float | None = None,
        max_rate: int | None = None,
        trust_path: bool = False,
        progress: Progress | None = None,
    ) -> PunchReport:
        """As `pagecheck.punch` of a running VM, which the service stops.

        It punches for those who may connect to the VMM and ptrace it.

        Args:
            max_pause: seconds; by default the service's limit.

        The other arguments are those of `pagecheck.punch`.

        Raises:
            AccessError: the VM's RAM may not be written to by us.
            PagecheckError: the subclass says whose fault it is.
        """
        from pagecheck.service.remote_punch import punched, require_vm

        started, text = clock.now_s(), os.fspath(source)
        require_vm(text)
        self.require_capability("punch")
        arguments: dict[str, Any] = {"dry_run": dry_run, "progress": progress is not None}
        arguments |= asked_for(max_pause=max_pause, max_rate=max_rate)
        with self._attached(text, page_size=page_size, trust_path=trust_path) as blocks:
            reply, fds = self.execute(
                "punch",
                {"block": blocks[0].number, **arguments},
                timeout=None,
                on_event=None if progress is None else reporting(progress),
            )
            close_all(fds)
        return punched(reply, text, dry_run=dry_run, seconds=clock.now_s() - started)

    def verify(
        self,
        directory: str | os.PathLike[str],
        *,
        max_rate: int | None = None,
        progress: Progress | None = None,
    ) -> VerifyReport:
        """As `pagecheck.verify`, and done here: a snapshot's files are ours, and no right or engine
        of the service's is needed for them."""
        from pagecheck.snapshot.verify import verify

        return verify(directory, max_rate=max_rate, progress=progress)

    def info(self, directory: str | os.PathLike[str]) -> Snapshot:
        """As `pagecheck.info`, and done here, as `verify` is."""
        from pagecheck.snapshot.info import info

        return info(directory)

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
