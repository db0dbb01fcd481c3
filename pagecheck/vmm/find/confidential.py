"""Confidential VMs, which are refused: SEV, TDX and other guests whose RAM the host cannot read.

Facts: their RAM is encrypted, or lies in a guest_memfd, of which the VMM maps only what the guest
gave to it; what the VMM maps elsewhere reads as zero or as noise. Danger: zeros that are none.
Decision: a descriptor of the kind, a word on the command line or QEMU's own answer is enough.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.process.memory import ProcessMemory

# Source: __kvm_gmem_create() in the kernel's virt/kvm/guest_memfd.c, a file system of its own in
# newer kernels; sev_common_kvm_init() in QEMU's target/i386/sev.c.
_LINKS: Final = ("anon_inode:[kvm-gmem]", "/[kvm-gmem]", "/dev/sev")


def refuse_confidential_process(text: str, process: ProcessMemory, said: CommandLine) -> None:
    """Refuses a process that runs a confidential VM.

    Args:
        text: the source, for messages.
        said: the process's command line.

    Raises:
        SourceError: it is one, as its descriptors or its command line show.
    """
    if why := said.confidential or confidential_descriptor(process.folder):
        raise _refusal(text, why)


def refuse_confidential_vm(text: str, monitor: QemuMonitor) -> None:
    """Refuses a VM that QEMU itself calls confidential.

    Raises:
        SourceError: it is one.
        PeerError: QEMU does not answer.
    """
    try:
        found = monitor.execute("qom-get", path="/machine", property="confidential-guest-support")
    except PeerError:
        return  # machines without the property, and QEMU before 6.0
    if isinstance(found, str) and found:
        raise _refusal(text, found)


def confidential_descriptor(folder: str) -> str:
    """What a descriptor of a confidential VM's leads to, among those of a process.

    Args:
        folder: the process's in /proc.

    Returns:
        Empty where there is none, or where they may not be looked at.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{folder}/fd"):
            with contextlib.suppress(OSError):  # closed since
                link = os.readlink(f"{folder}/fd/{name}").removesuffix(" (deleted)")
                if link in _LINKS:
                    return link
    return ""


def _refusal(text: str, why: str) -> SourceError:
    return SourceError(
        f"{text}: is a confidential VM ({why}): the host cannot read its RAM, whose bytes here say "
        "nothing; find zero pages inside the guest"
    )
