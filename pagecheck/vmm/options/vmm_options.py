"""The command lines of Cloud Hypervisor, Firecracker, crosvm and VirtualBox: RAM, control sockets
and names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

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

CLOUD_HYPERVISOR: Final = "Cloud Hypervisor"
FIRECRACKER: Final = "Firecracker"
CROSVM: Final = "crosvm"
VIRTUALBOX: Final = "VirtualBox"

Reader = Callable[[str], str | None]

# Source: DEFAULT_MEMORY_MB in Cloud Hypervisor's vmm/src/vm_config.rs.
_CH_DEFAULT: Final = 512 << 20
_CH_MANY: Final = frozenset({"memory-zone", "disk", "net", "fs", "pmem", "device", "vdpa", "numa"})
_FC_SOCKET: Final = "/run/firecracker.socket"  # Source: Firecracker's src/firecracker/src/main.rs
_FC_DEFAULT: Final = 128 << 20  # Source: MachineConfig in src/vmm/src/vmm_config/machine_config.rs
_MEBIBYTES_MAX: Final = 1 << 40
_PROTECTED: Final = ("protected-vm", "protected-vm-without-firmware", "protected-vm-with-firmware")


def read_cloud_hypervisor(words: list[str], _read: Reader) -> CommandLine:
    """Reads a command line of Cloud Hypervisor's.

    Args:
        words: what follows the program's name.
    """
    sockets: list[ControlSocket] = []
    memory: dict[str, str] = {}
    zones: list[dict[str, str]] = []
    confidential, elsewhere = "", True
    for option, value in options(words, many=_CH_MANY):
        if option == "api-socket":
            keys = key_values(value, "path")
            fd = descriptor(keys.get("fd", ""))
            if fd >= 0 or keys.get("path"):
                sockets.append(ControlSocket("ch", keys.get("path", ""), fd))
        elif option == "memory":
            memory = key_values(value)
        elif option == "memory-zone":
            zones.append(key_values(value))
        elif option in ("kernel", "firmware"):
            elsewhere = False
        elif option == "platform":
            keys = key_values(value)
            on = [key for key in ("tdx", "sev_snp") if is_on(keys.get(key, "off"))]
            confidential = on[0] if on else confidential
    ram = _cloud_ram(memory, zones)
    is_default = "size" not in memory and not zones
    if elsewhere and is_default:  # the VM comes by the API, a snapshot or a migration
        ram = []
    return CommandLine(
        CLOUD_HYPERVISOR, "", tuple(ram), tuple(sockets), confidential, is_default=is_default
    )


def _cloud_ram(memory: dict[str, str], zones: list[dict[str, str]]) -> list[RamOption]:
    size = size_bytes(memory["size"]) if "size" in memory else _CH_DEFAULT
    found = [_cloud_block("ram", size, memory)] if size and not zones else []
    found += _plugged("ram", memory) if memory.get("hotplug_method") == "virtio-mem" else []
    for number, zone in enumerate(zones):
        name = zone.get("id", f"zone-{number}")
        if (given := size_bytes(zone.get("size", ""))) is not None:
            found.append(_cloud_block(name, given, zone))
        found += _plugged(name, zone)
    return found


def _plugged(name: str, keys: dict[str, str]) -> list[RamOption]:
    size = size_bytes(keys.get("hotplug_size", ""))
    return [_cloud_block(f"{name}-virtio-mem", size, keys)] if size else []


def _cloud_block(name: str, size: int, keys: dict[str, str]) -> RamOption:
    # What has huge pages of hugetlbfs is made of a memfd; that of a zone may be mapped privately.
    shared = is_on(keys.get("shared", "off"))
    return RamOption(name, size, shared)


def read_firecracker(words: list[str], read: Reader) -> CommandLine:
    """Reads a command line of Firecracker's.

    Args:
        words: what follows the program's name.
        read: gives the text of a file by the name that it has on the command line, or None.
    """
    name, socket, config = "", _FC_SOCKET, None
    for option, value in options(words):
        if option == "id":
            name = value
        elif option == "api-sock":
            socket = value
        elif option == "no-api":
            socket = ""
        elif option == "config-file":
            config = read(value)
    sockets = (ControlSocket("fc", socket),) if socket else ()
    size = None if config is None else _configured_bytes(config)
    if size is None:
        return CommandLine(FIRECRACKER, name, (), sockets)
    # RAM is shared if a drive is a vhost-user device.
    ram = (RamOption("ram", size or _FC_DEFAULT, None),)
    return CommandLine(FIRECRACKER, name, ram, sockets, is_default=not size)


def _configured_bytes(config: str) -> int | None:
    """Bytes of RAM in a configuration file; 0 where it leaves them open, None where it is none."""
    try:
        members: Any = json.loads(config)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    machine = members.get("machine-config", {})
    mebibytes = machine.get("mem_size_mib", 0) if isinstance(machine, dict) else None
    if type(mebibytes) is int and 0 <= mebibytes < _MEBIBYTES_MAX:
        return mebibytes << 20
    return None


def read_crosvm(words: list[str], _read: Reader) -> CommandLine:
    """Reads a command line of crosvm's.

    Args:
        words: what follows the program's name.
    """
    name, size, confidential = "", 0, ""
    sockets: list[ControlSocket] = []
    for option, value in options(words):
        if option == "name":
            name = value
        elif option in ("s", "socket"):
            sockets.append(ControlSocket("crosvm", value))
        elif option in ("m", "mem"):
            size = size_bytes(key_values(value, "size").get("size", ""), "m") or 0
        elif option in _PROTECTED:
            confidential = option
    ram = (RamOption("crosvm_guest", size, is_shared=True),) if size else ()
    return CommandLine(CROSVM, name, ram, tuple(sockets), confidential)


def read_virtualbox(words: list[str], _read: Reader) -> CommandLine:
    """Reads a command line of VirtualBox's: the VM's name or, where there is none, its UUID.

    Args:
        words: what follows the program's name.
    """
    found = dict(options(words))
    started = found.get("startvm") or found.get("s", "")
    return CommandLine(VIRTUALBOX, found.get("comment") or started)
