"""The user's command for QEMU, as for a first start, extended so that QEMU continues a snapshot.

Facts: the RAM of a machine is the backend that -machine names, those of -numa, or one of QEMU's
own; devices (DIMMs) add the backends that they name. A backend's id is the name of its RAM block,
which a loaded state may refer to. Decision: every block of the snapshot becomes a
memory-backend-file of the block's name, in the place of what the command says of it; nothing else
is changed. What the command does not say of RAM is not guessed: it is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pagecheck.errors import UsageError
from pagecheck.printable import printable
from pagecheck.snapshot.command_words import (
    MACHINE,
    Option,
    escaped,
    named,
    replaced,
    split,
)
from pagecheck.vmm.options.programs import vmm_of
from pagecheck.vmm.options.qemu_options import QEMU

# Keys of a backend that mean the same for one that is a file. Source: HostMemoryBackend in
# QEMU's backends/hostmem.c.
_KEPT_KEYS: Final = (
    *("dump", "host-nodes", "merge", "policy", "prealloc", "prealloc-context", "prealloc-threads"),
    *("reserve", "x-use-canonical-path-for-ramblock-id"),
)
_REFUSED: Final = {
    "incoming": "it is pagecheck that gives QEMU the state",
    "loadvm": "the state is the snapshot's",
    "daemonize": "pagecheck stays in front until QEMU ends; run it in the background instead",
    "preconfig": "the state is loaded at once",
    "mem-path": "the RAM is where --ram says",
}


class RamFile(NamedTuple):
    """A file that holds a RAM block.

    Attributes:
        name: the block's.
        size: bytes.
        path: what QEMU opens.
    """

    name: str
    size: int
    path: str


def require_startable(words: Sequence[str]) -> None:
    """Checks that a command starts QEMU, and leaves to us what a restore decides.

    Raises:
        UsageError: it does not.
    """
    if not words or vmm_of("", list(words)) != QEMU:
        shown = printable(words[0]) if words else "nothing"
        raise UsageError(
            f"the command after --: is {shown}, must begin with a QEMU such as qemu-system-x86_64"
        )
    for each in split(list(words)):
        if (why := _REFUSED.get(each.name)) is not None:
            raise UsageError(f"the command after --: drop -{each.name}: {why}")


def with_ram(words: Sequence[str], files: Sequence[RamFile], *, share: bool) -> list[str]:
    """The command with the snapshot's RAM in the place of its own.

    Args:
        words: the user's command, the program first.
        files: one for every RAM block of the snapshot.
        share: QEMU's writes reach the files; else they stay QEMU's own.

    Raises:
        UsageError: the command has other RAM blocks than the snapshot.
    """
    found = list(words)
    left = {each.name: each for each in files}
    of_machine, of_devices = _backends(found)
    for name in (*of_machine, *of_devices):
        if name not in left:
            raise _other_block(name, files)
        found = _with_backend(found, left.pop(name), share=share)
    if not of_machine and left:
        name, file = left.popitem() if len(left) == 1 else _several(left)
        found = _with_machine_backend(found, name)
        found += ["-object", _backend(file, {}, share=share)]
    if left:
        file = min(left.values())
        raise UsageError(
            f"the command after --: has no RAM block {printable(file.name)}, which the snapshot "
            f"has; add -object memory-backend-ram,id={printable(file.name)},size={file.size} and "
            "what used it"
        )
    return found


def _backends(words: list[str]) -> tuple[list[str], list[str]]:
    """The ids of the backends that hold RAM: the machine's, and those of devices."""
    named_by = [each.keys("type").get("memory-backend") for each in named(words, *MACHINE)]
    of_machine = [name for name in named_by if name][-1:]
    nodes = [each.keys("type").get("memdev") for each in named(words, "numa")]
    devices = [each.keys("driver").get("memdev") for each in named(words, "device")]
    of_machine = of_machine or [name for name in nodes if name]
    return list(dict.fromkeys(of_machine)), [name for name in dict.fromkeys(devices) if name]


def _other_block(name: str, files: Iterable[RamFile]) -> UsageError:
    names = ", ".join(printable(each.name) for each in files)
    return UsageError(
        f"the command after --: its RAM block is {printable(name)}, the snapshot has {names}; "
        "give the command that the VM was started with"
    )


def _several(left: dict[str, RamFile]) -> tuple[str, RamFile]:
    names = ", ".join(printable(name) for name in left)
    raise UsageError(
        f"the command after --: names no memory backend, and the snapshot has {names}; give the "
        "command that the VM was started with, with its -numa and -object options"
    )


def _with_backend(words: list[str], file: RamFile, *, share: bool) -> list[str]:
    for each in named(words, "object"):
        keys = each.keys("qom-type")
        if keys.get("id") == file.name and keys.get("qom-type", "").startswith("memory-backend-"):
            return replaced(words, each, _backend(file, keys, share=share))
    raise UsageError(
        f"the command after --: uses the memory backend {printable(file.name)} and has no -object "
        "of that id"
    )


def _backend(file: RamFile, keys: dict[str, str], *, share: bool) -> str:
    kept = "".join(f",{key}={escaped(keys[key])}" for key in _KEPT_KEYS if key in keys)
    return (
        f"memory-backend-file,id={escaped(file.name)},size={file.size},"
        f"mem-path={escaped(file.path)},share={'on' if share else 'off'}{kept}"
    )


def _with_machine_backend(words: list[str], name: str) -> list[str]:
    added = f"memory-backend={escaped(name)}"
    last: Option | None = next(iter(reversed(named(words, *MACHINE))), None)
    if last is None or last.value_at is None:
        return [*words, "-machine", added]
    return replaced(words, last, f"{last.value},{added}")
