"""Which VMM a process is, and what its command line says.

Facts: a program is known by its file's name; a process of another user's shows no file, but its
words. Decision: the file's name counts, then the first word.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from pagecheck.shm.mounts import may_stall
from pagecheck.vmm.options.programs import vmm_of
from pagecheck.vmm.options.qemu_options import QEMU, read_qemu
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.options.vmm_options import (
    CLOUD_HYPERVISOR,
    CROSVM,
    FIRECRACKER,
    VIRTUALBOX,
    Reader,
    read_cloud_hypervisor,
    read_crosvm,
    read_firecracker,
    read_virtualbox,
)
from pagecheck.vmm.process.memory import ProcessMemory

_FILE_MAX: Final = 1 << 20

KVM: Final = "kvm"  # a VMM that no name explains
KVM_VM: Final = "anon_inode:kvm-vm"  # Source: kvm_dev_ioctl_create_vm() in virt/kvm/kvm_main.c


def read_command_line(program: str, words: list[str], read: Reader | None = None) -> CommandLine:
    """What a command line says of the VM.

    Args:
        program: the path of the process's program; empty where that is not known.
        words: its command line, the program's name first.
        read: gives the text of a file by the name that it has on the command line, or None; by
            default no file is read.
    """
    vmm, left = vmm_of(program, words), words[1:]
    read = read or _no_file
    if vmm == QEMU:
        return read_qemu(left)
    if vmm == CLOUD_HYPERVISOR:
        return read_cloud_hypervisor(left, read)
    if vmm == FIRECRACKER:
        return read_firecracker(left, read)
    if vmm == CROSVM:
        return read_crosvm(left, read)
    if vmm == VIRTUALBOX:
        return read_virtualbox(left, read)
    return CommandLine("")


def command_line_of(process: ProcessMemory) -> CommandLine:
    """What the command line of a process says; what cannot be read says nothing."""
    folder = process.folder

    def read(path: str) -> str | None:
        with contextlib.suppress(OSError):
            # Its mounts are ours, so that what may stall is known before it is accessed.
            if os.stat(f"{folder}/ns/mnt").st_ino != os.stat("/proc/self/ns/mnt").st_ino:
                return None
            start = os.readlink(f"{folder}/{'root' if path.startswith('/') else 'cwd'}")
            whole = os.path.join(start, path.lstrip("/"))
            if may_stall(whole) is None:
                return _file_text(whole, os.stat(folder).st_uid)
        return None

    said = read_command_line(process.program(), process.command_line(), read)
    return said._replace(vmm=KVM) if not said.vmm and has_vm_of_kvm(folder) else said


def has_vm_of_kvm(folder: str) -> bool:
    """Whether a process holds a VM of KVM's, as far as its descriptors may be looked at.

    Args:
        folder: the process's in /proc.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{folder}/fd"):
            with contextlib.suppress(OSError):  # closed since
                if os.readlink(f"{folder}/fd/{name}") == KVM_VM:
                    return True
    return False


def _no_file(_path: str) -> None:
    return None


def _file_text(path: str, owner: int) -> str | None:
    """The text of a small regular file of a user's; the name is another process's and may lead
    anywhere, also to what that process could not read."""
    try:
        # Looked at before it is opened: opening a device may do something.
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            found = os.fstat(place)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != owner:
                return None
            with open(f"/proc/self/fd/{place}", "rb") as file:
                return os.fsdecode(file.read(_FILE_MAX))
        finally:
            os.close(place)
    except (OSError, ValueError):
        return None
