"""The command `save`: a VM's RAM copied, in a pause, to files that the client made and handed over.

The service makes no file, opens none and names none: the client has a directory of its own, and
finishes the snapshot there with what is answered. Danger: RAM holds a guest's secrets, and a VM
that is stopped stays so where nobody continues it. Decision: only who may read the VM's memory by
the kernel's rule, and may connect to its VMM, or whom the policy lets save, is given its content;
who asks is judged again by every command; workers of this save alone write, with no more rights
over the files than the client has; and the hold of a check is the hold of a save.
Danger: a disk's file has whatever name the client's QEMU says: one of somebody else, or on a file
system of the client's that never answers. Decision: the service looks at and makes such files only
for who has all its rights.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pagecheck.coordinator import Coordinator
from pagecheck.coordinator.settings import default_channels
from pagecheck.errors import AccessError, UsageError
from pagecheck.model import vm_source
from pagecheck.service.arguments import Arguments, require_fds
from pagecheck.service.handed import require_files
from pagecheck.service.limits import Peer
from pagecheck.service.protocol import FDS_PER_LINE
from pagecheck.shm.bitmaps import bitmap_bytes
from pagecheck.snapshot.manifest import plain
from pagecheck.snapshot.save import parts_of, require_readable
from pagecheck.snapshot.save_report import SavedBlock, SaveReport
from pagecheck.snapshot.saving import Taking, Wanted
from pagecheck.sources import Found, Opened

if TYPE_CHECKING:
    from pagecheck.model import Pause
    from pagecheck.report.report import BlockReport
    from pagecheck.service.answers import Answers
    from pagecheck.service.resources import ClientResources, HeldBlock
    from pagecheck.service.rights import Admission, Rights
    from pagecheck.service.service import Service
    from pagecheck.shm.segments import Memfd
    from pagecheck.snapshot.vm_parts import VmParts
    from pagecheck.vmm import Vm

Answer = tuple[dict[str, Any], tuple[int, ...]]

log = logging.getLogger(__name__)


class Saves:
    """The saves of one client."""

    def __init__(
        self, service: Service, peer: Peer, rights: Rights, resources: ClientResources
    ) -> None:
        """Nothing is saved yet."""
        self._service = service
        self._peer = peer
        self._rights = rights
        self._resources = resources

    def save(
        self,
        arguments: Arguments,
        fds: list[int],
        sender: int,
        progress: Callable[[int, int], None],
    ) -> Answer:
        """Runs one `save`.

        Args:
            fds: the RAM files; they stay the caller's.
            sender: the process that sent the request, as the kernel says.
            progress: called now and then with (bytes done, bytes in all); raises where nobody
                wants the answer any more.

        Returns:
            The members of the answer, and the memory that goes with it, which is the caller's.

        Raises:
            PagecheckError: nothing was saved; the subclass says whose fault it is.
        """
        numbers = arguments.block_numbers("blocks", FDS_PER_LINE)
        if numbers is None:
            raise UsageError("save: 'blocks' is missing")
        held = [self._resources.block(number) for number in numbers]
        disks = arguments.choice("disks", "refuse", "none", "overlay")
        max_pause = arguments.number("max_pause", None) or self._service.limits.pause_seconds
        wanted = Wanted(
            live=arguments.flag("live"),
            then="run",
            max_pause=max_pause,
            max_rate=arguments.integer("max_rate", 1, 1 << 62, None),
            compress=None,
            progress=progress,
            notify=lambda _what, _value: None,
        )
        arguments.done()
        require_fds("save", fds, len(held))
        vm = self._vm(held)
        self._service.limits.require_pause(max_pause)
        trusted = self._peer.trusted
        sizes = [each.block.ram.size for each in held]
        require_files(fds, sizes, self._rights.process_number, trusted=trusted)
        kind, _path = vm_source(vm.text)
        with self._service.saves.one(), self._rights.ask(vm.text, kind, sender) as admission:
            _require_may(vm, admission, disks)
            asked = None if disks == "refuse" else disks
            return self._saved(vm, held, fds, wanted, asked, admission)

    def _vm(self, held: Sequence[HeldBlock]) -> Vm:
        vm = held[0].vm
        if vm is None or not vm.can_pause or any(each.vm is not vm for each in held):
            raise UsageError("save: is of the blocks of one VM, attached by its VMM's socket")
        require_readable(vm)
        if len(held) != len(vm.rams):
            raise UsageError(f"save: {len(held)} blocks are named, and the VM has {len(vm.rams)}")
        return vm

    def _saved(
        self,
        vm: Vm,
        held: Sequence[HeldBlock],
        fds: Sequence[int],
        wanted: Wanted,
        disks: Any,
        admission: Admission,
    ) -> Answer:
        service = self._service
        with contextlib.ExitStack() as stack:
            found = []
            for each in held:
                source = each.block.source.duplicate()
                stack.callback(source.close)
                found.append(Found(source, each.block.ram, each.regions))
            opened = Opened(vm.text, held[0].block.ram.page_size, found, vm)
            full = admission.is_full
            parts = parts_of(stack, vm, disks, "run", admission, touches_disks=full)
            scanner = stack.enter_context(self._workers(opened))
            copy = _Copy(opened, fds, scanner, wanted, service.answers, self._resources.client)
            stack.callback(copy.close)
            copy.prepare(stack, None)
            report = copy.save_vm(vm, parts)
            members = {
                "blocks": [
                    {"block": one.number, **block}
                    for one, block in zip(held, copy.blocks, strict=True)
                ],
                **copy.members,
            }
            self._count(report)
            pause = 0.0 if report.pause is None else report.pause.seconds
            service.scanned(self._resources.client, vm.text, "saved", *copy.found, pause)
            return members, copy.release()

    def _workers(self, opened: Opened) -> Coordinator:
        """Those of one save: a disk that stalls keeps nobody else's waiting."""
        shared = self._service.coordinator
        size = sum(min(each.ram.size, each.source.allocated) for each in opened.blocks)
        arguments = {**shared.arguments, "channels": min(default_channels(size), shared.channels)}
        writer = None
        if os.geteuid() == 0 and self._peer.uid != 0:
            writer = (self._peer.uid, self._rights.group)
        return Coordinator.with_settings({"writer": writer}, **arguments)

    def _count(self, report: SaveReport) -> None:
        counters = self._service.counters
        stored = sum(each.bytes_stored for each in report.blocks)
        counters.add("saves")
        counters.add("saved_bytes", stored)
        seconds = 0.0 if report.pause is None else report.pause.seconds
        log.info(
            "saved for process %d of user %d: %s: %d bytes, stopped for %.3f s",
            *(self._peer.pid, self._peer.uid, report.source, stored, seconds),
        )


def _require_may(vm: Vm, admission: Admission, disks: str) -> None:
    """Raises AccessError where the client may not have what it asks for."""
    if not admission.judge(vm).save:
        raise AccessError(
            f"{vm.text}: may be looked at, but not saved: that takes the rights to connect to its "
            "VMM and to ptrace it, or `save = true` in the service's policy"
        )
    if disks == "overlay" and not admission.is_full:
        raise AccessError(
            f"{vm.text}: new files for its disks are made by a service only for root and its own "
            "user; save without the service, or say --disks none, and see to them yourself"
        )


class _Copy(Taking):
    """A save to files that were handed over.

    Attributes:
        blocks, members: of the answer, once everything was copied.
    """

    def __init__(
        self,
        opened: Opened,
        fds: Sequence[int],
        scanner: Coordinator,
        wanted: Wanted,
        answers: Answers,
        client: object,
    ) -> None:
        """Allocates what the bitmaps take; too much of it is refused before anything is stopped.

        Args:
            fds: one for each block; they stay the caller's.
            client: whom the answer's memory counts for.
        """
        super().__init__(opened, opened.text, scanner, wanted)
        self._fds = fds
        self._answers = answers
        self._client = client
        sizes = [bitmap_bytes(found.ram.pages) // 3 for found in opened.blocks]
        self._memory = [answers.allocate(client, "pagecheck-zero", sum(sizes))]
        self.blocks: list[dict[str, Any]] = []
        self.members: dict[str, Any] = {}

    @property
    def found(self) -> tuple[list[BlockReport], int]:
        """What was found in each block, and the bytes that were read for it."""
        results = self._copying.results
        return [each.report for each in results], sum(each.bytes_checked for each in results)

    def _create_files(self, _stack: contextlib.ExitStack) -> list[tuple[str, int]]:
        return [(f"file {number}", fd) for number, fd in enumerate(self._fds)]

    def _write(
        self,
        created: str,
        *,
        exact: bool,  # noqa: ARG002  # it always is: of a VM
        parts: VmParts | None = None,
        pause: Pause | None = None,
    ) -> SaveReport:
        assert parts is not None
        assert pause is not None
        self._require_no_writer()
        self.blocks = list(self._bitmaps())
        self._memory[0].seal(read_only=True)
        state = parts.state
        if state is not None:
            memory = self._answers.allocate(self._client, "pagecheck-state", len(state))
            self._memory.append(memory)
            _fill(memory, 0, state)
            memory.seal(read_only=True)
        return self._report(created, parts, pause)

    def _bitmaps(self) -> Iterator[dict[str, Any]]:
        at = 0
        for each, result in zip(self._copying.files, self._copying.results, strict=True):
            ram, zero = each.block.ram, result.report.zero
            _fill(self._memory[0], at, zero)
            yield {
                "name": ram.name,
                "size": ram.size,
                "page_size": ram.page_size,
                "shared": each.found.source.is_file,
                "counts": result.report.counts._asdict(),
                "zero": {"offset": at, "bytes": len(zero)},
            }
            at += len(zero)

    def _publish(self) -> None:
        """The client does that."""

    def _report(self, created: str, parts: VmParts, pause: Pause) -> SaveReport:
        """What was copied; the answer's members are kept, too."""
        scanner, results, vm = self._scanner, self._copying.results, self._opened.vm
        assert vm is not None
        notes = (*vm.notes, *(note for each in results for note in each.notes))
        without = self._without_live_s(pause)
        self.members = {
            "created": created,
            "engine": scanner.engine,
            "kernel": scanner.kernel,
            "channels": scanner.channels,
            "machine": plain(parts.machine),
            "state_bytes": None if parts.state is None else len(parts.state),
            "disks": [plain(each) for each in parts.disks],
            "pause": pause._asdict(),
            "pause_without_live": None if without is None else round(without, 6),
            "notes": list(dict.fromkeys(notes)),
        }
        blocks = []
        for each, result in zip(self._copying.files, results, strict=True):
            counts = result.report.counts
            stored = counts.normal * each.block.ram.page_size
            blocks.append(SavedBlock(each.block.ram, counts, each.file, stored))
        return SaveReport(
            source=self._opened.text,
            directory="",
            exact=True,
            engine=scanner.engine,
            kernel=scanner.kernel,
            channels=scanner.channels,
            page_size=self._opened.page_size,
            seconds=0.0,
            blocks=tuple(blocks),
            pause=pause,
        )

    def release(self) -> tuple[int, ...]:
        """The descriptors of the answer, which are the caller's from now on."""
        fds = tuple(memory.fd for memory in self._memory)
        for memory in self._memory:
            memory.fd = -1
        return fds

    def close(self) -> None:
        """Closes what was not released."""
        for memory in self._memory:
            memory.close()


def _fill(memory: Memfd, at: int, content: bytes | memoryview) -> None:
    left = memoryview(content).cast("B")
    while len(left):
        done = os.pwrite(memory.fd, left, at)
        at, left = at + done, left[done:]
