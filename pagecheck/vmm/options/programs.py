"""Which VMM a program is, by its name."""

from __future__ import annotations

import os
import re
from typing import Final

from pagecheck.vmm.options.qemu_options import QEMU
from pagecheck.vmm.options.vmm_options import CLOUD_HYPERVISOR, CROSVM, FIRECRACKER, VIRTUALBOX
from pagecheck.vmm.process.maps import DELETED

# Names as distributions change them: qemu-system-x86_64-spice, .qemu-system-x86_64-wrapped.
_NAMES: Final = {
    QEMU: re.compile(r"\.?qemu-(system-.+|kvm)|kvm"),
    CLOUD_HYPERVISOR: re.compile(r"\.?cloud-hypervisor([-._].*)?"),
    FIRECRACKER: re.compile(r"\.?firecracker([-._].*)?"),
    CROSVM: re.compile(r"\.?crosvm([-._].*)?"),
    VIRTUALBOX: re.compile(r"\.?(VBoxHeadless|VirtualBoxVM|VBoxSDL|VirtualBox)([-._].*)?"),
}


def vmm_of(program: str, words: list[str]) -> str:
    """The VMM that a process is.

    Args:
        program: the path of its program; empty where that is not known.
        words: its command line.

    Returns:
        "QEMU", "Cloud Hypervisor", "Firecracker", "crosvm", "VirtualBox"; empty for another one.
    """
    for path in (program.removesuffix(DELETED), words[0] if words else ""):
        for vmm, pattern in _NAMES.items():
            if pattern.fullmatch(os.path.basename(path)) is not None:
                return vmm
    return ""
