"""What Firecracker and Cloud Hypervisor say of their VM's RAM on their APIs.

Danger: an API says sizes, not addresses, and any process may answer on a socket. Decision: as with
a command line, it is a hint which the mappings of the process behind the socket must bear out.

Source: FullVmConfiguration and MachineConfiguration in Firecracker's swagger file; MemoryConfig,
MemoryZoneConfig and PlatformConfig in Cloud Hypervisor's cloud-hypervisor.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pagecheck.errors import SourceError
from pagecheck.vmm.answers import SIZE_MAX, Answer
from pagecheck.vmm.hold.pause import VmmMonitor
from pagecheck.vmm.kinds import FIRECRACKER
from pagecheck.vmm.options.ram_options import CommandLine, RamOption

_ZONES_MAX: Final = 1024


def api_says(text: str, monitor: VmmMonitor) -> CommandLine:
    """The RAM blocks of the VM, in the form in which a command line asks for them.

    Args:
        text: the source, for messages.

    Raises:
        SourceError: there is no VM yet.
        PeerError: the VMM does not answer, or its answer is invalid.
    """
    if monitor.kind is FIRECRACKER:
        return _firecracker(text, monitor)
    return _cloud_hypervisor(text, monitor)


def _get(monitor: VmmMonitor, path: str) -> Answer:
    command = f"GET {path}"
    return Answer(monitor.name, command, monitor.execute(command), monitor.kind.socket)


def _firecracker(text: str, monitor: VmmMonitor) -> CommandLine:
    if _get(monitor, "/").member("state").text() == "Not started":
        raise SourceError(f"{text}: its VM is not started, and has no RAM yet")
    size = _mebibytes(_get(monitor, "/machine-config").member("mem_size_mib"))
    # Shared if a drive is a vhost-user device, which the mapping shows.
    ram = [RamOption("ram", size, None)]
    config = _get(monitor, "/vm/config")
    if (plugged := _present(config, "memory-hotplug")) is not None:
        ram.append(RamOption("hotplug", _mebibytes(plugged.member("total_size_mib")), None))
    return CommandLine(monitor.kind.vmm, "", tuple(ram))


def _mebibytes(number: Answer) -> int:
    size = number.size() << 20
    if size > SIZE_MAX:
        raise number.wrong("a size in MiB")
    return size


def _cloud_hypervisor(text: str, monitor: VmmMonitor) -> CommandLine:
    info = _get(monitor, "/api/v1/vm.info")
    state = info.member("state").text()
    if state in ("Created", "Shutdown"):
        raise SourceError(f"{text}: its VM is not booted ({state}), and has no RAM")
    config = info.member("config")
    memory = config.member("memory")
    zones = _present(memory, "zones")
    each = [] if zones is None else zones.items()
    if len(each) > _ZONES_MAX:
        raise memory.wrong(f"at most {_ZONES_MAX} zones")
    method = _present(memory, "hotplug_method")
    by_acpi = method is None or method.text() == "Acpi"
    ram = list(_blocks("ram", memory, by_acpi=by_acpi))
    for number, zone in enumerate(each):
        name = _present(zone, "id")
        ram += _blocks(f"zone-{number}" if name is None else name.text(), zone, by_acpi=False)
    return CommandLine(monitor.kind.vmm, "", tuple(ram), confidential=_confidential(config))


def _blocks(name: str, given: Answer, *, by_acpi: bool) -> Iterator[RamOption]:
    """The block of a memory configuration, and what was plugged by ACPI, or virtio-mem can plug,
    which is mapped from the start."""
    shared = _is_on(given, "shared")
    if size := given.member("size").size():
        yield RamOption(name, size, shared)
    plugged = _present(given, "hotplugged_size" if by_acpi else "hotplug_size")
    if plugged is not None and (size := plugged.size()):
        yield RamOption(f"{name}-{'plugged' if by_acpi else 'virtio-mem'}", size, shared)


def _confidential(config: Answer) -> str:
    """The member of the platform that makes it a confidential VM; empty where there is none."""
    platform = _present(config, "platform")
    if platform is None:
        return ""
    return next((name for name in ("tdx", "sev_snp") if _is_on(platform, name)), "")


def _is_on(given: Answer, name: str) -> bool:
    flag = _present(given, name)
    return flag is not None and flag.flag()


def _present(given: Answer, name: str) -> Answer | None:
    """A member that is neither missing nor null."""
    found = given.optional(name)
    return None if found is None or found.is_null() else found
