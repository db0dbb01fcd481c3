"""The command `attach`: guest RAM by a descriptor, by a name, or of a running VM.

Descriptors are everybody's; names are opened with the service's own rights, for root and its user;
a VM is opened with the client's rights (see `rights.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck.child.process import reap_left_behind
from pagecheck.errors import AccessError, LimitError, UsageError
from pagecheck.model import is_vm_source, vm_source
from pagecheck.plan import check_page_size, make_block, require_qmp, require_vm
from pagecheck.service.arguments import Arguments, regions, require_fds
from pagecheck.service.limits import LEFT_BEHIND_MAX, VMS_PER_CLIENT, Peer
from pagecheck.service.naming import (
    PATH_CHARS,
    Identity,
    Named,
    expected_identity,
    named_vm,
    open_named,
    require_same_vm,
    require_steady,
)
from pagecheck.service.resources import ClientResources, HeldBlock
from pagecheck.service.rights import Rights
from pagecheck.shm.ram import adopt

if TYPE_CHECKING:
    from pagecheck.coordinator.block import Source
    from pagecheck.model import Region
    from pagecheck.service.service import Service
    from pagecheck.shm.ram import RamSource
    from pagecheck.vmm import Vm

PAGE_SIZE_MAX: Final = 1 << 30


class _Asked(NamedTuple):
    """The arguments of `attach`; `service/schema.json` says what each means."""

    source: str | None
    name: str | None
    named: Named | None
    look: dict[str, Any]
    offset: int | None
    size: int | None
    regions: tuple[Region, ...]
    trust_path: bool
    swapped: str
    form: str
    expected: Identity | None


class Attaching:
    """Attaches what one client brings or names."""

    def __init__(
        self, service: Service, peer: Peer, rights: Rights, resources: ClientResources
    ) -> None:
        """Nothing is attached yet.

        Args:
            rights: what the client may have done to running VMs.
        """
        self._service = service
        self._peer = peer
        self._rights = rights
        self._resources = resources

    def attach(self, arguments: Arguments, fds: list[int], sender: int) -> dict[str, Any]:
        """Attaches what the arguments say.

        Args:
            fds: what came with the request; stays the caller's.
            sender: the process that sent it, as the kernel says.

        Returns:
            The members of the answer.

        Raises:
            PagecheckError: it is not taken; the subclass says whose fault that is.
        """
        asked = _asked(arguments)
        source, named = asked.source, asked.named
        require_fds("attach", fds, 1 if source is None and named is None else 0)
        if named is not None:
            by_name = asked.name is not None and named.kind != "pid"
            _require_whole(named.kind, asked, more=source is not None or by_name)
            if named.kind == "pid":
                self._rights.require_same_pids(named.source, sender)
            return self._attach_vm(named, sender, asked)
        if source is None:
            name = asked.name
            return self._attach_ram(adopt(fds[0], name or "descriptor", name or "ram"), asked)
        if not self._peer.trusted:
            raise AccessError(
                "source: only root and the service's own user may name paths and shared memory; "
                "pass a descriptor on, or name a VM by pid, qmp, fc or ch"
            )
        if is_vm_source(source):
            _require_whole(source, asked, more=asked.name is not None)
            kind, _rest = vm_source(source)
            return self._attach_vm(Named(kind, source), sender, asked)
        if asked.trust_path:
            require_qmp(source)
        require_vm(source, asked.swapped)
        ram = open_named(source, asked.name, asked.expected, asked.form)
        return self._attach_ram(ram, asked)

    def _attach_ram(self, ram: RamSource, asked: _Asked) -> dict[str, Any]:
        where = (asked.offset or 0, asked.size, asked.regions)
        return self._answer([self._add(ram, asked.look, *where)])

    def _attach_vm(self, named: Named, sender: int, asked: _Asked) -> dict[str, Any]:
        from pagecheck.vmm import open_vm

        kind, source = named
        with self._rights.ask(source, kind, sender) as admission:
            if admission.is_full:
                require_steady(source)
            elif asked.trust_path:
                raise AccessError(f"{source}: trust_path: is for who has the service's own rights")
            elif self._resources.vms() >= VMS_PER_CLIENT:
                raise LimitError(f"{VMS_PER_CLIENT} VMs are attached; detach one first")
            elif reap_left_behind() >= LEFT_BEHIND_MAX:
                raise LimitError(
                    f"{LEFT_BEHIND_MAX} processes of the service wait for VMs that are not "
                    "continued; continue these, or end their VMMs"
                )
            require_same_vm(source, asked.expected)
            vm = open_vm(
                source,
                trust_path=asked.trust_path,
                read_swapped=asked.swapped == "read",
                users=admission.users,
                admit=admission,
            )
            vm.on_pause = self._service.counters.paused
            may_pause = admission.may(vm).pause
        added: list[HeldBlock] = []
        try:
            # A socket may have taken the other's place meanwhile.
            require_same_vm(source, asked.expected)
            if asked.named is not None and vm.place is not None:
                self._rights.require_same_socket(named, vm.place)
            for each in vm.unreadable:
                make_block(each.name, each.size, asked.look["page_size"])
            for ram in vm.rams:
                where = (ram.start, ram.size, ram.regions)
                added.append(self._add(ram.source, asked.look, *where, vm, may_pause=may_pause))
        except BaseException:
            for held in added:
                self._resources.remove(held.number)
            vm.close()
            raise
        return self._answer(added, vm)

    def _add(
        self,
        ram: Source,
        look: dict[str, Any],
        offset: int,
        size: int | None,
        given: tuple[Region, ...],
        vm: Vm | None = None,
        *,
        may_pause: bool = False,
    ) -> HeldBlock:
        try:
            self._resources.require_name(ram.name)
            end = ram.size if size is None else offset + size
            most = self._service.limits.block_bytes
            if end - offset > most:
                raise LimitError(
                    f"{ram.name}: {end - offset} bytes; the service takes blocks of up to {most} "
                    "(--max-block-size)"
                )
            for region in given:
                if region.mmap_offset < offset or region.mmap_offset + region.memory_size > end:
                    raise UsageError(
                        f"regions: {region.memory_size:#x} bytes at offset "
                        f"{region.mmap_offset:#x} are not inside the block"
                    )
            block = self._service.coordinator.attach(ram, offset=offset, length=size, **look)
        except BaseException:
            ram.close()
            raise
        return self._resources.add(block, given, vm, may_pause=may_pause)

    def _answer(self, held: list[HeldBlock], vm: Vm | None = None) -> dict[str, Any]:
        blocks = [describe(each) for each in held]
        unreadable = [
            {
                "name": each.name,
                "size": each.size,
                "regions": [region._asdict() for region in each.regions],
                "why": each.why,
            }
            for each in (() if vm is None else vm.unreadable)
        ]
        notes = [] if vm is None else vm.notes
        return {
            "block": held[0].number,
            "blocks": blocks,
            "unreadable": unreadable,
            "notes": notes,
        }


def describe(held: HeldBlock) -> dict[str, Any]:
    """A block as clients see it."""
    ram = held.block.ram
    return {
        "block": held.number,
        "name": ram.name,
        "offset": ram.start,
        "size": ram.size,
        "page_size": ram.page_size,
        "regions": [region._asdict() for region in held.regions],
    }


def _asked(arguments: Arguments) -> _Asked:
    """All arguments, checked one by one; those that exclude a descriptor need a source."""
    name = arguments.text("name", None)
    page_size = arguments.integer("page_size", 4096, PAGE_SIZE_MAX, 4096)
    check_page_size(page_size)
    asked = _Asked(
        source=arguments.text("source", None, chars=PATH_CHARS),
        name=name,
        named=named_vm(arguments, name),
        look={
            "page_size": page_size,
            "holes": arguments.choice("holes", "trust", "read"),
            "access": arguments.choice("access", "auto", "map", "read"),
        },
        offset=arguments.integer("offset", 0, 1 << 62, None),
        size=arguments.integer("size", 1, 1 << 62, None),
        regions=regions(arguments),
        trust_path=arguments.flag("trust_path"),
        swapped=arguments.choice("swapped", "leave", "read"),
        form=arguments.choice("format", "auto", "raw"),
        expected=expected_identity(arguments),
    )
    arguments.done()
    if asked.source is None and (asked.trust_path or asked.expected is not None):
        raise UsageError("trust_path, expect: go with a source, and a descriptor is not one")
    return asked


def _require_whole(what: str, asked: _Asked, *, more: bool) -> None:
    """Raises UsageError where more than the VM is named, which says itself what its RAM is."""
    if more or asked.offset is not None or asked.size is not None or asked.regions:
        raise UsageError(f"{what}: the VM defines its RAM: give page_size at most")
