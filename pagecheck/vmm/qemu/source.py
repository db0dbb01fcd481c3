"""The source `qmp:SOCKET`: what QEMU reports of its RAM, proved by the kernel.

QMP names the backends, the memory map says where each lies in guest memory, `gpa2hva` where in
QEMU's. What the kernel maps at that address is the proof that the block is shared, and gives file
and offset whatever the backend is (see `proof.py`). A path that QEMU reports is a name in its mount
namespace and from when it was opened: it is used only where the user vouches for it. A block that
cannot be seen does not hide the others. Danger: all of that is queried one after the other, and
RAM can be plugged meanwhile. Decision: it is queried again at the end, and a difference is an
error.
"""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

from pagecheck.errors import PeerError, SourceError
from pagecheck.model import Region
from pagecheck.native import _native
from pagecheck.vmm.answers import SIZE_MAX
from pagecheck.vmm.find.arrival import missing_files
from pagecheck.vmm.find.confidential import refuse_confidential_vm
from pagecheck.vmm.find.private import open_private
from pagecheck.vmm.find.shared import as_ram
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.process.maps import Mapping, covering
from pagecheck.vmm.process.memory import Admit, DetailedMapping, ProcessMemory
from pagecheck.vmm.process.proof import OpenFile, Unproved, is_behind
from pagecheck.vmm.qemu.asking import asked, host_address, human
from pagecheck.vmm.qemu.mtree import RamRange, parse_mtree
from pagecheck.vmm.ram import GuestRam, UnreadableRam, VmRam

_OBJECTS: Final = "/objects/"
_SPACE: Final = 1 << 64  # bytes of guest-physical memory


class Backend(NamedTuple):
    """A memory backend of QEMU's.

    Attributes:
        id: its id, which is also its RAM block's.
        size: bytes.
        is_shared: whether QEMU says that its memory is shared.
    """

    id: str
    size: int
    is_shared: bool


class _Unreachable(SourceError):
    """One block cannot be read; others may."""


def open_qemu(
    text: str,
    monitor: QemuMonitor,
    *,
    trust_path: bool = False,
    read_swapped: bool = False,
    admit: Admit | None = None,
) -> VmRam:
    """Opens the RAM blocks of the VM behind a monitor.

    Args:
        text: the source as the user wrote it.
        monitor: connected to the VM.
        trust_path: the user vouches for the paths that QEMU reports.
        read_swapped: private pages that are swapped out are read.
        admit: as of a `ProcessMemory`.

    Returns:
        The blocks that are guest memory now, by their first guest-physical address.

    Raises:
        SourceError: none of the VM's RAM can be read, it is a confidential VM, or RAM was plugged
            or unplugged meanwhile.
        PeerError: QEMU refuses a command, or its answer is invalid.
    """
    refuse_confidential_vm(text, monitor)
    backends = _backends(monitor)
    pieces = _pieces(text, monitor, backends)
    _require_mapped(text, monitor, pieces)
    found = VmRam([], [], [])
    try:
        # Keeps QEMU's process open from before to after the queries.
        options = (found.notes, trust_path, read_swapped, admit)
        with _Files(text, monitor, *options) as files:
            for name, ranges in pieces.items():
                try:
                    found.rams.append(files.open(backends[name], ranges))
                except _Unreachable as error:
                    found.unreadable.append(_unreadable(backends[name], ranges, str(error)))
            if not found.rams:
                raise SourceError(found.unreadable[0].why)
            if _backends(monitor) != backends or not files.are_in_place():
                raise SourceError(
                    f"{text}: RAM was plugged or unplugged while it was inspected; try again"
                )
            files.verify()
    except BaseException:
        for ram in found.rams:
            ram.source.close()
        raise
    return found


def _pieces(
    text: str, monitor: QemuMonitor, backends: dict[str, Backend]
) -> dict[str, list[RamRange]]:
    """Where QEMU's memory map shows the backends, by their ids."""
    pieces: dict[str, list[RamRange]] = {}
    for each in parse_mtree(human(monitor, "info mtree -f")):
        if each.block in backends:
            _require_inside(text, each, backends[each.block])
            pieces.setdefault(each.block, []).append(each)
    if not pieces:
        raise SourceError(
            f"{text}: QEMU's memory map shows none of its {len(backends)} memory backends; give "
            "pid:PID of QEMU"
        )
    return pieces


def _unreadable(backend: Backend, ranges: list[RamRange], why: str) -> UnreadableRam:
    regions = tuple(Region(each.gpa, each.size, 0, each.offset) for each in ranges)
    return UnreadableRam(backend.id, backend.size, regions, why)


def _backends(monitor: QemuMonitor) -> dict[str, Backend]:
    found: dict[str, Backend] = {}
    for each in asked(monitor, "query-memdev").items():
        if (name := each.optional("id")) is None:
            continue
        share = each.optional("share")
        size, is_shared = each.member("size").size(), share is not None and share.flag()
        if name.text() in found:
            raise name.wrong("an id of one backend only")
        found[name.text()] = Backend(name.text(), size, is_shared)
    return found


def _require_inside(text: str, part: RamRange, backend: Backend) -> None:
    inside = 0 < part.size <= backend.size - part.offset and part.gpa + part.size <= _SPACE
    if not inside:
        raise PeerError(
            f"{text}: QEMU's memory map shows {part.size:#x} bytes at offset {part.offset:#x} of "
            f"{backend.id}, which has {backend.size:#x}; give the socket of a QEMU's -qmp"
        )


def _require_mapped(text: str, monitor: QemuMonitor, pieces: dict[str, list[RamRange]]) -> None:
    """Plugged memory must be in the memory map; a virtio-mem device may have nothing plugged."""
    for device in asked(monitor, "query-memory-devices").items():
        plugged = device.member("data")
        memdev, size = plugged.optional("memdev"), plugged.optional("size")
        if memdev is None or size is None or not size.size():
            continue
        name = memdev.text().removeprefix(_OBJECTS)
        if name and name not in pieces:
            known = plugged.optional("id")
            shown = name if known is None else known.text()
            raise SourceError(
                f"{text}: memory device {shown!r} is not in guest memory at this moment; it is "
                "being plugged or unplugged: try again"
            )


class _Files:
    """Opens the files behind backends; keeps QEMU's process open meanwhile."""

    def __init__(
        self,
        text: str,
        monitor: QemuMonitor,
        notes: list[str],
        trust_path: bool,
        read_swapped: bool,
        admit: Admit | None,
    ) -> None:
        """Opens the process that listens on the monitor, if it can be seen.

        Args:
            notes: gets a line for every file that nothing proves.
        """
        self._text = text
        self._monitor = monitor
        self._notes = notes
        self._trust_path = trust_path
        self._read_swapped = read_swapped
        self._places: list[tuple[Backend, list[RamRange], int]] = []
        self._process: ProcessMemory | None = None
        self._mappings: list[Mapping] = []
        self._details: list[DetailedMapping] = []  # the same with more, if that was asked for
        self._missing: set[tuple[int, int]] = set()
        self._why_unseen = "QEMU's process cannot be seen from here (another pid namespace)"
        if monitor.peer_pid > 0:
            try:
                self._process = ProcessMemory(monitor.peer_pid, admit)
                self._mappings = self._process.mappings()
                self._missing = missing_files(self._process, at_most_pages=0)
            except SourceError as error:
                self._why_unseen = str(error)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.close()

    def are_in_place(self) -> bool:
        """Whether every block that was opened is where it was, in the guest and in QEMU."""
        return all(self._address(each, ranges) == base for each, ranges, base in self._places)

    def verify(self) -> None:
        """Raises SourceError if the process that was inspected has ended, or maps
        something else."""
        if self._process is not None:
            self._process.verify()

    def open(self, backend: Backend, ranges: list[RamRange]) -> GuestRam:
        """Opens one backend as a RAM block with its regions.

        Raises:
            _Unreachable: no way leads to it, or nothing proves which file it is.
            SourceError: it is not guest memory any more.
        """
        if not backend.is_shared and (self._process is None or not self._mappings):
            raise _Unreachable(
                f"{self._text}: RAM block {backend.id} is private to QEMU, whose memory cannot be "
                f"read: {self._why_unseen}; run pagecheck as root or QEMU's user on QEMU's host, "
                "in its pid namespace"
            )
        base = self._address(backend, ranges)
        self._places.append((backend, ranges, base))
        if not backend.is_shared:
            return self._open_private(backend, ranges, base)
        file, start = self._by_mapping(backend, base) or self._by_path(backend, base)
        text = f"{self._text}:{backend.id}"
        try:
            ram = as_ram(text, backend.id, file, start, backend.size)
        except SourceError as error:
            raise _Unreachable(str(error)) from error
        regions = (
            Region(each.gpa, each.size, base + each.offset, start + each.offset) for each in ranges
        )
        return ram._replace(regions=tuple(regions))

    def _open_private(self, backend: Backend, ranges: list[RamRange], base: int) -> GuestRam:
        assert self._process is not None
        text = f"{self._text}:{backend.id}"
        try:
            if not self._details:
                self._details = list(self._process.detailed_mappings())
            ram = open_private(
                self._process,
                text,
                backend.id,
                base,
                backend.size,
                details=self._details,
                read_swapped=self._read_swapped,
            )
        except SourceError as error:
            raise _Unreachable(str(error)) from error
        if any(piece.absent == _native.UNREADABLE for piece in ram.pieces):
            # QEMU's address, but memory of who relays the socket may lie there, by chance.
            ram.close()
            raise _Unreachable(
                f"{text}: process {self._process.pid}, which listens, does not map all of it as "
                "private memory: it is not QEMU, or QEMU changes it; give pid:PID of QEMU"
            )
        regions = (Region(each.gpa, each.size, base + each.offset, each.offset) for each in ranges)
        return GuestRam(ram, 0, backend.size, tuple(regions))

    def _address(self, backend: Backend, ranges: list[RamRange]) -> int:
        """Where in QEMU's memory the backend begins."""
        largest = max(ranges, key=lambda each: each.size)
        address = host_address(self._monitor, backend.id, largest.gpa, self._text)
        return address - largest.offset

    def _mapped(self, backend: Backend, base: int) -> Mapping | None:
        """What the kernel maps at the backend's address, if that is shared."""
        mapped = covering(self._mappings, base, backend.size)
        return mapped if mapped is not None and mapped.is_shared else None

    def _by_mapping(self, backend: Backend, base: int) -> tuple[OpenFile, int] | None:
        """The file behind the mapping, and the offset of the backend in it."""
        if self._process is None or not self._mappings:
            return None
        mapped = self._mapped(backend, base)
        if mapped is None:
            # QEMU says that it is shared: so this process is not QEMU, but only opened the socket.
            self._why_unseen = f"process {self._process.pid}, which listens, does not map it"
            return None
        if (mapped.dev, mapped.inode) in self._missing:
            raise _Unreachable(
                f"{self._text}: {backend.id}: pages of it have yet to arrive (userfaultfd): memory "
                "that has not arrived is not zero"
            )
        try:
            file = self._process.open_file(mapped)
        except SourceError as error:
            self._why_unseen = str(error)
            return None
        if file is None:
            raise _Unreachable(
                f"{self._text}: {backend.id}: is a device, not a file: {mapped.path}"
            )
        return file, base - mapped.start + mapped.offset

    def _by_path(self, backend: Backend, base: int) -> tuple[OpenFile, int]:
        """A shared file backend's file by the name that QEMU opened it under, if the user vouches
        for it."""
        path = self._property(backend, "mem-path")
        # Left out: names that mean another file in every process.
        usable = isinstance(path, str) and path.startswith("/")
        if not usable or path.startswith(("/dev/fd/", "/proc/")):
            raise self._unreachable(
                backend, "", "give QEMU a memory-backend-file,mem-path=/dev/shm/NAME,share=on"
            )
        if not self._trust_path:
            raise self._unreachable(backend, "", f"vouch for {path} with --trust-path")
        try:
            if not os.path.isfile(path):
                raise self._unreachable(backend, f", and {path} is not a regular file here")
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreachable(backend, f", and {path}: {error.strerror}") from error
        is_it = self._is_behind(fd, self._mapped(backend, base))
        if is_it is False:
            os.close(fd)
            raise self._unreachable(backend, f", and {path} is another file by now")
        if is_it is None:
            self._notes.append(
                f"{self._text}: {backend.id}: {path} was opened by its name (--trust-path), and "
                f"nothing proves that it is the VM's memory: {self._why_unseen}"
            )
        start = self._property(backend, "offset")  # since QEMU 8.1
        known = type(start) is int and 0 <= start <= SIZE_MAX
        return OpenFile(fd, own_description=True), start if known else 0

    def _is_behind(self, fd: int, mapped: Mapping | None) -> bool | None:
        """Whether a file provably is, or is not, the one that is mapped, whoever vouches for it;
        None: neither can be proved."""
        try:
            return None if mapped is None else is_behind(fd, mapped)
        except Unproved:
            return None

    def _property(self, backend: Backend, name: str) -> Any:
        try:
            return self._monitor.execute("qom-get", path=_OBJECTS + backend.id, property=name)
        except PeerError:
            return None

    def _unreachable(self, backend: Backend, more: str, way_out: str = "") -> _Unreachable:
        return _Unreachable(
            f"{self._text}: cannot prove which file the memory of {backend.id} is: "
            f"{self._why_unseen}{more}; run pagecheck as root or QEMU's user on QEMU's host, in "
            "its pid namespace" + (f", or {way_out}" if way_out else "")
        )
