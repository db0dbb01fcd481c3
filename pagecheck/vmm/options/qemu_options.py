"""QEMU's command line: its RAM blocks, its monitors, the VM's name.

Facts: every option has at most one value, in the next word. The RAM of the machine is the backend
that -machine names, or those of -numa, or one block of the size of -m; devices (DIMMs, virtio-mem)
add the backends that they name. libvirt writes objects as JSON and gives its monitor by descriptor.
Source: qemu-options.hx, softmmu/vl.c and hw/core/numa.c of QEMU 7.2; system/vl.c.
"""

from __future__ import annotations

from typing import Final

from pagecheck.vmm.options.ram_options import (
    CommandLine,
    ControlSocket,
    RamOption,
    descriptor,
    is_on,
    key_values,
    options,
    size_bytes,
)

QEMU: Final = "QEMU"
DEFAULT_BYTES: Final = 128 << 20  # of most machines, all of x86's among them

_ROUNDED: Final = 8192
_BLOCK: Final = {"microvm": "microvm.ram", "virt": "mach-virt.ram"}
_CONFIDENTIAL: Final = {"sev-guest", "sev-snp-guest", "tdx-guest", "pef-guest", "s390-pv-guest"}
_SHARED_BY_DEFAULT: Final = {"memory-backend-memfd", "memory-backend-shm"}
_SUPPORT: Final = ("confidential-guest-support", "memory-encryption")


def read_qemu(words: list[str]) -> CommandLine:
    """Reads a command line of QEMU's.

    Args:
        words: what follows the program's name.
    """
    read = _Read()
    for option, value in options(words, any_word=frozenset({"append"})):
        read.add(option, value)
    return CommandLine(
        QEMU,
        read.name,
        tuple(read.ram()),
        tuple(read.sockets()),
        read.confidential,
        is_default=read.is_default(),
    )


class _Read:
    """What was read until now."""

    def __init__(self) -> None:
        self.name = ""
        self.confidential = ""
        self._machine: dict[str, str] = {}
        self._memory: dict[str, str] = {}
        self._backends: dict[str, RamOption] = {}
        self._nodes: list[str] = []
        self._devices: list[str] = []
        self._sizes_elsewhere = False
        self._sockets: dict[str, ControlSocket] = {}
        self._control: list[str | ControlSocket] = []

    def add(self, option: str, value: str) -> None:
        """Takes one option; those of no interest are left out."""
        if option in ("m", "machine", "M"):
            first = "size" if option == "m" else "type"
            (self._memory if option == "m" else self._machine).update(key_values(value, first))
        elif option == "name":
            self.name = key_values(value, "guest").get("guest", self.name)
        elif option == "object":
            self._add_object(key_values(value, "qom-type"))
        elif option in ("numa", "device"):
            memdev = key_values(value, "driver").get("memdev")
            if memdev is not None:
                (self._nodes if option == "numa" else self._devices).append(memdev)
        elif option == "readconfig":
            self._sizes_elsewhere = True
        elif option == "chardev":
            self._add_chardev(key_values(value, "backend"))
        elif option in ("qmp", "qmp-pretty"):
            self._add_monitor(value)
        elif option == "mon":
            monitor = key_values(value, "chardev")
            if monitor.get("mode") == "control":
                self._control.append(monitor.get("chardev", ""))

    def _add_object(self, keys: dict[str, str]) -> None:
        kind = keys.get("qom-type", "")
        if kind in _CONFIDENTIAL:
            self.confidential = kind
        size = size_bytes(keys.get("size", ""))
        if not kind.startswith("memory-backend-") or not size or "id" not in keys:
            return
        shared = is_on(keys["share"]) if "share" in keys else kind in _SHARED_BY_DEFAULT
        self._backends[keys["id"]] = RamOption(keys["id"], size, shared)

    def _add_chardev(self, keys: dict[str, str]) -> None:
        is_listening = is_on(keys.get("server", "off"))
        if keys.get("backend") == "socket" and is_listening and "id" in keys:
            fd = descriptor(keys.get("fd", ""))
            if "path" in keys or fd >= 0:
                self._sockets[keys["id"]] = ControlSocket("qmp", keys.get("path", ""), fd)

    def _add_monitor(self, value: str) -> None:
        if value.startswith("unix:"):
            keys = key_values(value.removeprefix("unix:"), "path")
            if is_on(keys.get("server", "off")):
                self._control.append(ControlSocket("qmp", keys.get("path", "")))
        elif value.startswith("chardev:"):
            self._control.append(value.removeprefix("chardev:"))

    def sockets(self) -> list[ControlSocket]:
        """The Unix sockets on which it listens for QMP."""
        found = [self._sockets.get(x) if isinstance(x, str) else x for x in self._control]
        return [each for each in found if each is not None]

    def is_default(self) -> bool:
        """Whether nothing says how much RAM the machine has."""
        return not (self._machine.get("memory-backend") or self._nodes or "size" in self._memory)

    def ram(self) -> list[RamOption]:
        """The blocks of the machine, then those of its devices."""
        for key in _SUPPORT:
            self.confidential = self._machine.get(key) or self.confidential
        names = [self._machine["memory-backend"]] if "memory-backend" in self._machine else []
        names = names or self._nodes
        found = [] if names else self._of_the_machine()
        names = [*names, *self._devices]
        return found + [self._backends[name] for name in dict.fromkeys(names) if self._has(name)]

    def _has(self, name: str) -> bool:
        return name in self._backends

    def _of_the_machine(self) -> list[RamOption]:
        if self._sizes_elsewhere and "size" not in self._memory:
            return []
        size = size_bytes(self._memory.get("size", str(DEFAULT_BYTES >> 20)), "m")
        if not size:
            return []
        kind = self._machine.get("type", "").partition("-")[0]
        size += -size % _ROUNDED
        return [RamOption(_BLOCK.get(kind, "pc.ram"), size, is_shared=False)]
