"""Finds QEMU's descriptions of its RAM blocks in its heap, for versions that do not tell."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from collections.abc import Mapping as Map
from typing import Final

from pagecheck.vmm.process.maps import Mapping
from pagecheck.vmm.process.resident import read_resident

_NUMBERS: Final = struct.Struct("=QQQ")  # offset, used and largest length
_HOST: Final = struct.Struct("=Q")
_HOST_BEFORE: Final = 16  # bytes before the numbers
_NAME_BEHIND: Final = 36  # bytes from the first number to the name
_ARENA_BYTES: Final = 64 << 20  # the largest of malloc's

Numbers = tuple[int, int, int]  # a block's offset, used and largest length


def find_structures(
    pagemap: int, memory: int, mappings: list[Mapping], numbers: Map[str, Numbers]
) -> dict[str, int]:
    """Finds where RAM blocks lie.

    Args:
        pagemap, memory: of QEMU's process.
        mappings: what it maps.
        numbers: offset, used and largest length of each block, by name.

    Returns:
        Host addresses by name; none of a block that was not found or is described in two ways.
    """
    found: dict[str, set[int]] = {name: set() for name in numbers}
    for each in _heaps(mappings):
        for _, text in _stretches(pagemap, memory, each):
            for name, values in numbers.items():
                found[name].update(_hosts(text, name, _NUMBERS.pack(*values)))
    return {name: hosts.pop() for name, hosts in found.items() if len(hosts) == 1}


def at_host(
    pagemap: int, memory: int, mappings: list[Mapping], numbers: Numbers, host: int
) -> Iterator[int]:
    """Where structures with these numbers may have that host address; as `find_structures`."""
    wanted, host_word = _NUMBERS.pack(*numbers), _HOST.pack(host)
    for each in _heaps(mappings):
        for address, text in _stretches(pagemap, memory, each):
            at = text.find(wanted)
            while at >= 0:
                if at >= _HOST_BEFORE and text.startswith(host_word, at - _HOST_BEFORE):
                    yield address + at - _HOST_BEFORE
                at = text.find(wanted, at + 1)


def _heaps(mappings: list[Mapping]) -> Iterator[Mapping]:
    """Where malloc's memory may be."""
    for each in mappings:
        small = each.path == "[heap]" or each.size <= _ARENA_BYTES
        if each.perms == "rw-p" and each.is_anonymous and small:
            yield each


def _stretches(pagemap: int, memory: int, mapping: Mapping) -> Iterator[tuple[int, bytes]]:
    """What is resident of it, by address, each piece with the end of the one that it continues."""
    before, end = b"", 0
    where = (pagemap, memory, mapping.start, mapping.end)
    for address, content in read_resident(*where, skip_unreadable=True):
        tail = before[-4096:] if address == end else b""
        yield address - len(tail), tail + content
        before, end = content, address + len(content)


def _hosts(text: bytes, name: str, numbers: bytes) -> Iterator[int]:
    wanted = name.encode(errors="surrogateescape") + b"\0"
    at = text.find(numbers)
    while at >= 0:
        if at >= _HOST_BEFORE and text.startswith(wanted, at + _NAME_BEHIND):
            yield _HOST.unpack_from(text, at - _HOST_BEFORE)[0]
        at = text.find(numbers, at + 1)
