"""Confidential VMs are refused, by their descriptors, their command line, or QEMU's answer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path
from typing import Any, cast

import pytest

from pagecheck.errors import PeerError, SourceError
from pagecheck.vmm.find.confidential import (
    confidential_descriptor,
    refuse_confidential_process,
    refuse_confidential_vm,
)
from pagecheck.vmm.hold.pause import QemuMonitor
from pagecheck.vmm.options.ram_options import CommandLine
from pagecheck.vmm.process.memory import ProcessMemory


def folder(at: Path, *links: str) -> str:
    (at / "fd").mkdir()
    for number, link in enumerate(("/dev/null", "socket:[5]", *links)):
        (at / "fd" / str(number)).symlink_to(link)
    return str(at)


@pytest.mark.parametrize(
    ("link", "found"),
    [
        ("anon_inode:[kvm-gmem]", "anon_inode:[kvm-gmem]"),
        ("/[kvm-gmem] (deleted)", "/[kvm-gmem]"),
        ("/dev/sev", "/dev/sev"),
        ("/dev/sev-guest", ""),  # inside such a guest
        ("anon_inode:kvm-vm", ""),
        ("/home/[kvm-gmem]", ""),
    ],
)
def test_descriptors(tmp_path: Path, link: str, found: str) -> None:
    assert confidential_descriptor(folder(tmp_path, link)) == found


def test_descriptors_that_may_not_be_looked_at() -> None:
    assert confidential_descriptor("/nonexistent") == ""


def test_a_process_is_refused_by_its_descriptors(tmp_path: Path) -> None:
    with ProcessMemory(os.getpid()) as process:
        refuse_confidential_process("pid:7", process, CommandLine("QEMU"))
        process.folder = folder(tmp_path, "anon_inode:[kvm-gmem]")
        with pytest.raises(SourceError) as error:
            refuse_confidential_process("pid:7", process, CommandLine("QEMU"))
    assert str(error.value) == (
        "pid:7: is a confidential VM (anon_inode:[kvm-gmem]): the host cannot read its RAM, whose "
        "bytes here say nothing; find zero pages inside the guest"
    )


def test_a_process_is_refused_by_its_command_line() -> None:
    said = CommandLine("QEMU", confidential="sev-guest")
    with (
        ProcessMemory(os.getpid()) as process,
        pytest.raises(SourceError, match=r"confidential VM \(sev-guest\)"),
    ):
        refuse_confidential_process("pid:7", process, said)


def test_a_real_guest_memfd_is_known() -> None:
    """Of the kernel itself, so that its name is not only what we think it is."""
    create_vm, create_guest_memfd = 0xAE01, 0xC040AED4  # Source: linux/kvm.h
    with contextlib.ExitStack() as stack:
        try:
            kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, kvm)
            vm = fcntl.ioctl(kvm, create_vm, 0)
            stack.callback(os.close, vm)
            assert confidential_descriptor("/proc/self") == ""
            made = fcntl.ioctl(vm, create_guest_memfd, bytearray(struct.pack("8Q", 4096, *[0] * 7)))
        except OSError as error:
            pytest.skip(f"no guest_memfd of KVM's here: {error}")
        stack.callback(os.close, made)
        assert confidential_descriptor("/proc/self") == "anon_inode:[kvm-gmem]"


class Monitor:
    """Answers one question."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def execute(self, command: str, **arguments: Any) -> object:
        assert command == "qom-get"
        assert arguments == {"path": "/machine", "property": "confidential-guest-support"}
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_vm_is_refused_by_qemus_answer() -> None:
    with pytest.raises(SourceError, match=r"qmp:/q: is a confidential VM \(/objects/sev0\)"):
        refuse_confidential_vm("qmp:/q", cast(QemuMonitor, Monitor("/objects/sev0")))


@pytest.mark.parametrize("answer", ["", None, 5, [], PeerError("no such property")])
def test_other_vms_are_not_refused(answer: object) -> None:
    refuse_confidential_vm("qmp:/q", cast(QemuMonitor, Monitor(answer)))
