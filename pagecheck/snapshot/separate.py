"""What several VMs of one command may not share: found in the command, and refused by name.

Danger: two VMs that write to one disk destroy it; two that listen at one place do not start; a
device that gives RAM back makes holes in the snapshot's own file. Decision: `{n}` in a word stands
for the clone's number; what names something of the host, has no `{n}`, and is not known to be safe,
is refused unless the user names it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.command_words import Option, named, split
from pagecheck.vmm.options.ram_options import is_on

NUMBER: Final = "{n}"
OVERLAID: Final = ("drive", "hda", "hdb", "hdc", "hdd")

_NEVER: Final = {
    "vhost-user": "its memory would have to be shared with another process",
    "vfio-": "a host device cannot be in two VMs",
    "virtio-mem": "it gives RAM back by holes in the snapshot's own file",
    "virtio-balloon": "it gives RAM back by holes in the snapshot's own file",
    "ivshmem": "its memory is shared",
}
_FILES: Final = ("fda", "fdb", "sd", "mtdblock", "pflash", *OVERLAID)
_PLACES: Final = ("qmp", "qmp-pretty", "monitor", "serial", "parallel", "gdb", "debugcon")
_HOST: Final = ("pidfile", "vnc", "spice", "D", "fsdev", "virtfs", "dfilter-file")
_HARMLESS: Final = ("none", "null", "vc", "pty", "chardev:", "mon:vc", "ringbuf", "memory")
_NETWORKS: Final = ("netdev", "nic", "net")


class Shared(NamedTuple):
    """Something that all clones of a command would share.

    Attributes:
        option: what says so.
        name: what the user calls it.
        why: what is wrong with that.
        is_disk: an overlay would do.
        is_network: the clone's number in it would change nothing.
    """

    option: Option
    name: str
    why: str
    is_disk: bool = False
    is_network: bool = False


def numbered(words: Sequence[str], number: int) -> list[str]:
    """The command of one clone."""
    return [word.replace(NUMBER, str(number)) for word in words]


def require_separate(
    words: Sequence[str], *, allowed: Collection[str] = (), overlays: bool = False
) -> list[Shared]:
    """Checks that clones of a command do not share what they may not.

    Args:
        words: the user's command, the program first.
        allowed: names that the user allows to be shared.
        overlays: disks get an overlay for each clone.

    Returns:
        The disks that need one.

    Raises:
        UsageError: something would be shared; the text names it.
    """
    disks = []
    for each in shared(list(words)):
        if each.is_disk and overlays:
            disks.append(each)
        elif each.name not in allowed:
            ways = [] if each.is_network else [f"write {NUMBER} for the clone's number in it"]
            ways += ["say --disks overlay"] if each.is_disk else []
            right = "each has a network of its own" if each.is_network else "that is right"
            ways.append(f"say --share {each.name} if {right}")
            raise UsageError(
                f"the command after --: -{each.option.name} {printable(each.name)}: {each.why}; "
                + ", or ".join(ways)
            )
    return disks


def shared(words: list[str]) -> Iterator[Shared]:
    """What all clones of a command would share, except what never may be.

    Raises:
        UsageError: it has a device that no two VMs of one snapshot can have.
    """
    _require_possible(words)
    is_temporary = bool(named(words, "snapshot"))
    for each in split(words):
        if each.name in _NETWORKS and each.value:
            yield from _network(each)
        if NUMBER in each.value or not each.value:
            continue
        if each.name in _FILES:
            if not is_temporary:
                yield from _disk(each)
        elif each.name == "blockdev":
            yield from _block_node(each)
        elif each.name in _PLACES:
            if not each.value.startswith(_HARMLESS):
                yield Shared(each, each.value, "all clones would have the same place")
        elif each.name == "chardev":
            yield from _character_device(each)
        elif each.name in _HOST and not each.value.startswith("none"):
            keys = each.keys("backend")
            yield Shared(each, keys.get("id", each.value), "all clones would have the same one")


def _require_possible(words: list[str]) -> None:
    for each in named(words, "device", "netdev", "chardev", "object"):
        keys = each.keys("driver")
        kind = keys.get("driver") or keys.get("qom-type") or keys.get("type", "")
        if NUMBER in keys.get("mac", ""):
            raise UsageError(
                f"the command after --: -device {printable(kind)}: {NUMBER} in its MAC address "
                "changes nothing: a guest keeps the address that it was saved with; drop it"
            )
        for start, why in _NEVER.items():
            if kind.startswith(start):
                raise UsageError(
                    f"the command after --: {printable(kind)}: cannot be in clones: {why}"
                )


def _disk(option: Option) -> Iterator[Shared]:
    keys = option.keys() if option.name == "drive" else {"file": option.value}
    read_only = is_on(keys.get("readonly", keys.get("read-only", "off")))
    safe = read_only or keys.get("media") == "cdrom" or is_on(keys.get("snapshot", "off"))
    path = keys.get("file", "")
    has_node = any(key.startswith("file.") for key in keys)  # file.filename, file.server.path, ...
    if (path or has_node) and not safe:
        name = keys.get("id") or path or option.value
        is_overlaid = option.name in OVERLAID and not has_node
        yield Shared(option, name, "all clones would write to one disk", is_overlaid)


def _block_node(option: Option) -> Iterator[Shared]:
    keys = option.keys("driver")
    inner, driver = keys.get("file", ""), keys.get("driver", "")
    # What is on top of another -blockdev has no place of its own.
    is_safe = is_on(keys.get("read-only", "off")) or driver.startswith("null-")
    if not is_safe and (not inner or inner.startswith("{")):
        name = keys.get("node-name") or option.block_file() or driver
        yield Shared(option, name, "all clones would write to one disk")


def _character_device(option: Option) -> Iterator[Shared]:
    keys = option.keys("backend")
    if not keys.get("backend", "").startswith(_HARMLESS):
        yield Shared(option, keys.get("id", option.value), "all clones would have the same place")


def _network(option: Option) -> Iterator[Shared]:
    keys = option.keys("type")
    kind = keys.get("type", "")
    if kind in ("none", "nic", "hubport", ""):
        return
    name = keys.get("id", kind)
    if kind != "user":  # also with an interface of its own: that may be in a bridge with others
        why = "all clones have the MAC address that the guest was saved with"
        yield Shared(option, name, why, is_network=True)
    elif NUMBER not in option.value and any(part.startswith("hostfwd") for part in keys):
        yield Shared(option, name, "all clones would have the same port")
