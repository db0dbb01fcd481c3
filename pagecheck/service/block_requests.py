"""The requests of a client about RAM blocks: attach, check, detach."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pagecheck.errors import PagecheckError
from pagecheck.model import Region, is_vm_source
from pagecheck.service.passing import passed_on, require_same
from pagecheck.service.protocol import close_all
from pagecheck.service.replies import Attached, Checked, Members, RemoteBlock, attached, checked
from pagecheck.service.requests import NEVER_NS, Requests

if TYPE_CHECKING:
    from pagecheck.model import Format, Swapped

CHECK_REPLY_S: Final = 30.0  # beyond the deadline of a check

Progress = Callable[[int, int], None]


class BlockRequests(Requests):
    """A connection on which RAM blocks are attached and checked."""

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
        arguments |= asked_for(name=name, offset=offset or None, size=length)
        arguments |= asked_for(regions=given or None, trust_path=trust_path or None)
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
        arguments |= asked_for(ranges=ranges, max_rate=max_rate, deadline=deadline)
        arguments |= asked_for(max_pause=max_pause, leave_stopped=leave_stopped or None)
        reply, fds = self.execute(
            "check",
            arguments,
            [] if bitmap is None else [bitmap],
            timeout=None if deadline is None else deadline + CHECK_REPLY_S,
            on_event=None if progress is None else reporting(progress),
        )
        try:
            return checked(reply, fds, blocks, whole=ranges is None and bitmap is None)
        finally:
            close_all(fds)


def asked_for(**optional: Any) -> dict[str, Any]:
    """The arguments that were given, so that older services take the request too."""
    return {name: value for name, value in optional.items() if value is not None}


def reporting(progress: Progress) -> Callable[[dict[str, Any]], None]:
    """What is called with the data of PROGRESS events."""

    def on_event(event: dict[str, Any]) -> None:
        given = Members(event, "the progress of a command")
        progress(*(given.integer(name, 0, NEVER_NS) for name in ("done", "bytes")))

    return on_event
