"""The source `qmp:SOCKET`: QEMU's own word about its RAM, proved by the kernel's.

QMP names the backends, the memory map says where each lies in guest memory, `gpa2hva` where in
QEMU's. What the kernel maps at that address is the proof that the block is shared, and gives file
and offset whatever the backend is. Where QEMU's memory map cannot be read, a shared file backend is
opened by its path. Danger: all of that is asked one after the other, and RAM can be plugged
meanwhile. Decision: what there is is asked again at the end, and a difference is an error.
"""

from __future__ import annotations

import os
import re
from typing import Any, Final, NamedTuple

from pagecheck.errors import PeerError, SourceError
from pagecheck.model import Region
from pagecheck.vmm.answers import SIZE_MAX, Answer
from pagecheck.vmm.maps import Mapping, OpenFile, ProcessMemory
from pagecheck.vmm.mtree import RamRange, parse_mtree
from pagecheck.vmm.pause import QemuMonitor
from pagecheck.vmm.process import QEMU_SHARE, as_ram
from pagecheck.vmm.ram import GuestRam

# Source: hmp_gpa2hva() in QEMU's monitor/misc.c (7.2), monitor/hmp-cmds.c.
_HVA: Final = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((.+)\) is 0x([0-9a-f]+)\s*")
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


def open_qemu(text: str, monitor: QemuMonitor) -> list[GuestRam]:
    """Opens the RAM blocks of the VM behind a monitor.

    Args:
        text: the source as the user wrote it.
        monitor: connected to the VM.

    Returns:
        The blocks that are guest memory now, by their first guest-physical address.

    Raises:
        SourceError: some of the VM's RAM is private, cannot be opened, or was plugged or unplugged
            meanwhile.
        PeerError: QEMU refuses a question, or its answer makes no sense.
    """
    backends = _backends(monitor)
    pieces: dict[str, list[RamRange]] = {}
    for each in parse_mtree(_human(monitor, "info mtree -f")):
        if each.block in backends:
            _require_inside(text, each, backends[each.block])
            pieces.setdefault(each.block, []).append(each)
    if not pieces:
        raise SourceError(
            f"{text}: QEMU's memory map shows none of its {len(backends)} memory backends; "
            f"{QEMU_SHARE}"
        )
    _require_mapped(text, monitor, pieces)
    for name in pieces:
        if not backends[name].is_shared:
            raise _private(text, backends[name])
    rams: list[GuestRam] = []
    try:
        with _Files(text, monitor) as files:  # holds QEMU from before to after the questions
            for name, ranges in pieces.items():
                rams.append(files.open(backends[name], ranges))
            if _backends(monitor) != backends:
                raise SourceError(
                    f"{text}: RAM was plugged or unplugged while it was looked at; try again"
                )
            files.verify()
    except BaseException:
        for ram in rams:
            ram.source.close()
        raise
    return rams


def _asked(monitor: QemuMonitor, command: str, **arguments: Any) -> Answer:
    return Answer(monitor.name, command, monitor.execute(command, **arguments))


def _backends(monitor: QemuMonitor) -> dict[str, Backend]:
    found: dict[str, Backend] = {}
    for each in _asked(monitor, "query-memdev").items():
        if (name := each.optional("id")) is None:
            continue
        share = each.optional("share")
        size, is_shared = each.member("size").size(), share is not None and share.flag()
        if name.text() in found:
            raise name.wrong("an id of one backend only")
        found[name.text()] = Backend(name.text(), size, is_shared)
    return found


def _human(monitor: QemuMonitor, line: str) -> str:
    return _asked(monitor, "human-monitor-command", **{"command-line": line}).text()


def _require_inside(text: str, part: RamRange, backend: Backend) -> None:
    inside = 0 < part.size <= backend.size - part.offset and part.gpa + part.size <= _SPACE
    if not inside:
        raise PeerError(
            f"{text}: QEMU's memory map shows {part.size:#x} bytes at offset {part.offset:#x} of "
            f"{backend.id}, which has {backend.size:#x}; give the socket of a QEMU's -qmp"
        )


def _require_mapped(text: str, monitor: QemuMonitor, pieces: dict[str, list[RamRange]]) -> None:
    """Plugged memory must be in the memory map; a virtio-mem device may have nothing plugged."""
    for device in _asked(monitor, "query-memory-devices").items():
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
    """Opens the file behind a backend; holds QEMU's process meanwhile."""

    def __init__(self, text: str, monitor: QemuMonitor) -> None:
        self._text = text
        self._monitor = monitor
        self._process: ProcessMemory | None = None
        self._mappings: list[Mapping] = []
        self._blind = "QEMU's process cannot be seen from here"
        if monitor.peer_pid > 0:
            try:
                self._process = ProcessMemory(monitor.peer_pid)
                self._mappings = self._process.mappings()
            except SourceError as error:
                self._blind = str(error)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process is not None:
            self._process.close()

    def verify(self) -> None:
        """Raises SourceError if the process that was looked at is not there any more."""
        if self._process is not None:
            self._process.verify()

    def open(self, backend: Backend, ranges: list[RamRange]) -> GuestRam:
        """Opens one backend as a RAM block with its regions."""
        base = self._address(backend, ranges)
        file, start = self._by_mapping(backend, base) or self._by_path(backend)
        text = f"{self._text}:{backend.id}"
        ram = as_ram(text, backend.id, file, start, backend.size)
        regions = (
            Region(each.gpa, each.size, base + each.offset, start + each.offset) for each in ranges
        )
        return ram._replace(regions=tuple(regions))

    def _address(self, backend: Backend, ranges: list[RamRange]) -> int:
        """Where in QEMU's memory the backend begins."""
        largest = max(ranges, key=lambda each: each.size)
        said = _human(self._monitor, f"gpa2hva {largest.gpa:#x}")
        match = _HVA.fullmatch(said)
        if match is None or match[1].removeprefix(_OBJECTS) != backend.id:
            raise SourceError(
                f"{self._text}: {backend.id} is not at {largest.gpa:#x} of guest memory any more "
                f"({said.strip()}); try again"
            )
        return int(match[2], 16) - largest.offset

    def _by_mapping(self, backend: Backend, base: int) -> tuple[OpenFile, int] | None:
        """What the kernel maps at the backend's address, and the offset of the backend in it."""
        if self._process is None or not self._mappings:
            return None
        mapped = covering(self._mappings, base, backend.size)
        if mapped is None or not mapped.is_shared or not mapped.is_writable:
            # QEMU says that it is shared: so this process is not QEMU, but only opened the socket.
            self._blind = f"process {self._process.pid}, which listens, does not map it"
            return None
        try:
            file = self._process.open_file(mapped)
        except SourceError as error:
            self._blind = str(error)
            return None
        return None if file is None else (file, base - mapped.start + mapped.offset)

    def _by_path(self, backend: Backend) -> tuple[OpenFile, int]:
        """A shared file backend's file by the name that QEMU opened it under."""
        path = self._property(backend, "mem-path")
        # Names that mean another file in every process.
        usable = isinstance(path, str) and path.startswith("/")
        if not usable or path.startswith(("/dev/fd/", "/proc/")):
            raise self._unreachable(backend, "")
        try:
            if not os.path.isfile(path):
                raise self._unreachable(backend, f", and {path} is no regular file here")
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            raise self._unreachable(backend, f", and {path}: {error.strerror}") from error
        start = self._property(backend, "offset")  # since QEMU 8.1
        known = type(start) is int and 0 <= start <= SIZE_MAX
        return OpenFile(fd, own_description=True), start if known else 0

    def _property(self, backend: Backend, name: str) -> Any:
        try:
            return self._monitor.execute("qom-get", path=_OBJECTS + backend.id, property=name)
        except PeerError:
            return None

    def _unreachable(self, backend: Backend, more: str) -> SourceError:
        return SourceError(
            f"{self._text}: cannot open the memory of {backend.id}: {self._blind}{more}; run "
            "pagecheck as QEMU's user or root on QEMU's host, or use memory-backend-file with "
            "mem-path=/dev/shm/NAME,share=on"
        )


def covering(mappings: list[Mapping], base: int, size: int) -> Mapping | None:
    """One mapping in place of all those that together map a stretch of memory from one file.

    Args:
        mappings: in order of address.
        base: address of the first byte.
        size: bytes.

    Returns:
        The first of them; None where a part is not mapped, or not from the same file, in the same
        way and in one piece.
    """
    first: Mapping | None = None
    at = base
    for each in mappings:
        if not each.start <= at < each.end:
            continue
        if first is None:
            first = each
        same = (each.dev, each.inode, each.is_shared) == (first.dev, first.inode, first.is_shared)
        if not same or (each.inode and each.offset - each.start != first.offset - first.start):
            return None
        at = each.end
        if at >= base + size:
            return first
    return None


def _private(text: str, backend: Backend) -> SourceError:
    return SourceError(
        f"{text}: RAM block {backend.id} ({backend.size >> 20} MiB) is private to QEMU, so that "
        f"nobody else can see it; {QEMU_SHARE}"
    )
