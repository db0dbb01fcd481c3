"""The command `punch`: zero pages of a VM's shared RAM made holes, under the hold of a check.

Danger: it writes into RAM that is not ours, in the name of somebody else. Decision: only for who
may connect to the VMM and ptrace it by rights of its own, as of this very request; no policy lends
it. What is punched, when, and what is refused is the command's own rule
(`snapshot/punch.py`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pagecheck.errors import AccessError, UsageError
from pagecheck.model import vm_source
from pagecheck.service.arguments import Arguments, require_fds
from pagecheck.service.limits import NUMBER_MAX, Peer
from pagecheck.shm.ram import RamSource
from pagecheck.snapshot.in_use import maps_for_writing
from pagecheck.snapshot.punch_vm import Wanted, punch_vm

if TYPE_CHECKING:
    from pagecheck.service.resources import ClientResources
    from pagecheck.service.rights import Rights
    from pagecheck.service.service import Service
    from pagecheck.snapshot.punch_report import PunchReport
    from pagecheck.vmm import Vm

log = logging.getLogger(__name__)


class Punches:
    """Those of one client."""

    def __init__(
        self, service: Service, peer: Peer, rights: Rights, resources: ClientResources
    ) -> None:
        """Nothing is punched yet."""
        self._service = service
        self._peer = peer
        self._rights = rights
        self._resources = resources

    def punch(
        self,
        arguments: Arguments,
        fds: list[int],
        sender: int,
        progress: Callable[[int, int], None],
    ) -> dict[str, Any]:
        """Runs one `punch`.

        Args:
            sender: the process that sent the request, as the kernel says.
            progress: as of a save.

        Returns:
            The members of the answer.

        Raises:
            PagecheckError: the subclass says whose fault it is; what was punched stays so.
        """
        held = self._resources.block(arguments.integer("block", 0, NUMBER_MAX))
        max_pause = arguments.number("max_pause", None) or self._service.limits.pause_seconds
        wanted = Wanted(
            page_size=held.block.ram.page_size,
            dry_run=arguments.flag("dry_run"),
            max_pause=max_pause,
            max_rate=arguments.integer("max_rate", 1, 1 << 62, None),
            progress=progress,
            start={},
            coordinator=self._service.coordinator,
        )
        arguments.done()
        require_fds("punch", fds, 0)
        vm = held.vm
        if vm is None or not vm.can_pause:
            raise UsageError("punch: is of a block of a VM that was attached by its VMM's socket")
        self._service.limits.require_pause(max_pause)
        kind, _path = vm_source(vm.text)
        with self._rights.ask(vm.text, kind, sender) as admission:
            if not admission.judge(vm).write:
                raise AccessError(
                    f"{vm.text}: may be looked at, but its RAM not be written to: that takes the "
                    "client's own rights to connect to its VMM and to ptrace it"
                )
            if not admission.is_full:
                _require_writer(vm)
            report = punch_vm(vm, wanted)
        self._count(report)
        return {
            "blocks": [each.to_json() for each in report.blocks],
            "why_incomplete": report.why_incomplete,
            "pause": None if report.pause is None else report.pause._asdict(),
            "notes": list(report.notes),
        }

    def _count(self, report: PunchReport) -> None:
        if report.dry_run:
            return
        counters = self._service.counters
        counters.add("punches")
        counters.add("punched_bytes", report.zero_bytes)
        log.info(
            "punched for process %d of user %d: %s: %d bytes",
            *(self._peer.pid, self._peer.uid, report.source, report.zero_bytes),
        )


def _require_writer(vm: Vm) -> None:
    for ram in vm.rams:
        if isinstance(ram.source, RamSource):
            writes = False
            with contextlib.suppress(OSError):
                writes = maps_for_writing(vm.pid, ram.source.fd)
            if not writes:
                raise AccessError(
                    f"{vm.text}:{ram.source.name}: is a file that its VMM does not map for "
                    "writing, and punching writes to it"
                )
