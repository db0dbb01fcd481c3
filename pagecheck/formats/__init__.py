"""Files that are not raw guest RAM: dumps, VM states, disk images, archives, compressed data.

Danger: the bytes of such a file are not the guest's, and an answer about them would be mistaken for
one about the VM. The other danger: RAM may begin with any bytes, so a magic number proves nothing.
Decision: a file is refused only where a header is consistent with itself and with the rest of the
file (sizes, tables, checksums, what follows); a magic number without that is a note.

A file whose first two bytes are those of no known format costs one read and nothing else; a
format's module is loaded only where that format is possible.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from pagecheck.formats.found import Found

HEAD_BYTES: Final = 512


_STREAMS: Final = (b"\x1f\x8b", b"\x28\xb5", b"\xfd7", b"\x04\x22", b"BZ", b"\x89L", b"]\0")
_ZLIB: Final = (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
_DUMPS: Final = (b"\x7fE", b"KD", b"DI", b"ma", b"EM", b"AV", b"PA")
_STATES: Final = (b"QE", b"Li", b"\x7fV", b"\xff\xff", b"Xe", b"\0\0")
_VMWARE: Final = (b"\xd2\xbe", b"\xd3\xbe", b"\xd0\xbe", b"\xd1\xba")
_DISKS: Final = (b"QF", b"# ", b"vh", b"co", b"CO", b"<<")
_ARCHIVES: Final = (b"PK", b"7z", b"VM", b"{\n", b'{"', b"{ ", b"{\r")
_FIRECRACKER: Final = (b"\x64\x86", b"\xaa\xaa")  # after two zeros
_MODULES: Final = {
    **dict.fromkeys((*_STREAMS, *_ZLIB), "streams"),
    **dict.fromkeys(_DUMPS, "dumps"),
    **dict.fromkeys((*_STATES, *_VMWARE), "states"),
    **dict.fromkeys(_DISKS, "disks"),
    **dict.fromkeys(_ARCHIVES, "archives"),
}


def identify(fd: int) -> Found | None:
    """What the open file looks like; None: nothing contradicts raw guest RAM.

    Only reads, by position, and bounded whatever the file holds.
    """
    try:
        head = os.pread(fd, HEAD_BYTES, 0)
        module = _module_for(head)
        if module is None:
            return None
        size = os.fstat(fd).st_size
        return _identify(module, head, size, lambda count, offset: os.pread(fd, count, offset))
    except OSError:
        return None  # the scan will say what cannot be read, and where


def identify_by(head: bytes, size: int, read: Callable[[int, int], bytes]) -> Found | None:
    """As `identify`, of what lies elsewhere.

    Args:
        head: its first `HEAD_BYTES`.
        size: bytes of all of it.
        read: gives so many bytes from an offset; what it raises is passed on.
    """
    module = _module_for(head)
    return None if module is None else _identify(module, head, size, read)


def _module_for(head: bytes) -> str | None:
    """The module of the formats that begin so."""
    module = _MODULES.get(head[:2])
    if module is None or (head[:2] == b"\0\0" and head[2:4] not in _FIRECRACKER):
        return "archives" if head[257:262] == b"ustar" else None
    return module


def _identify(
    module: str, head: bytes, size: int, read: Callable[[int, int], bytes]
) -> Found | None:
    from pagecheck.formats.reading import File

    file = File(head, size, read)
    if module == "streams":
        from pagecheck.formats.streams import identify
    elif module == "dumps":
        from pagecheck.formats.dumps import identify
    elif module == "states":
        from pagecheck.formats.states import identify
    elif module == "disks":
        from pagecheck.formats.disks import identify
    else:
        from pagecheck.formats.archives import identify
    return identify(file)
