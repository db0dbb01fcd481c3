"""A guest's RAM copied from outside, and another QEMU that goes on with it: the tests' own way."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pagecheck.vmm import QemuMonitor
from pagecheck.vmm.mtree import parse_mtree
from pagecheck.vmm.qemu_asking import host_address, human
from pagecheck.vmm.qemu_machine import Machine
from tests.support.waiting import wait_for
from tools.guest.console import Console

STEP = 1 << 20


def copy_ram(monitor: QemuMonitor, machine: Machine, folder: Path) -> None:
    """Copies each block of a VM that is stopped into a sparse file of its name."""
    ranges = parse_mtree(human(monitor, "info mtree -f"))
    memory = os.open(f"/proc/{monitor.peer_pid}/mem", os.O_RDONLY)
    try:
        for block in machine.memory:
            first = next(each for each in ranges if each.block == block["block"])
            base = host_address(monitor, first.block, first.gpa) - first.offset
            with open(folder / first.block, "wb") as file:
                file.truncate(block["size"])
                for offset in range(0, block["size"], STEP):
                    text = os.pread(memory, min(STEP, block["size"] - offset), base + offset)
                    if text.count(0) != len(text):
                        os.pwrite(file.fileno(), text, offset)
    finally:
        os.close(memory)


@contextlib.contextmanager
def another_qemu(
    command: Sequence[str], machine: Machine, folder: Path
) -> Iterator[tuple[Console, QemuMonitor]]:
    """Starts it with RAM from files of the folder, and waits for its monitor.

    Args:
        command: of the first QEMU, without its serial port and monitors.
    """
    path = folder / "qmp2"
    command = [*_with_files(command, machine, folder), "-S", "-incoming", "defer"]
    command += ["-serial", "stdio", "-qmp", f"unix:{path},server=on,wait=off"]
    qemu = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for(path.exists, "its monitor is there", 20)
        with QemuMonitor(str(path)) as monitor:
            yield Console.of_child(qemu), monitor
    finally:
        qemu.kill()
        qemu.wait(10)
        assert qemu.stdout is not None
        qemu.stdout.close()
        path.unlink(missing_ok=True)


def _with_files(words: Sequence[str], machine: Machine, folder: Path) -> list[str]:
    objects = {
        each["block"]: f"memory-backend-file,id={each['block']},size={each['size']},"
        f"mem-path={folder / each['block']},share=off"
        for each in machine.memory
    }
    made = []
    for word in words:
        name = word.partition(",id=")[2].partition(",")[0]
        made.append(
            objects.pop(name) if word.startswith("memory-backend-") and name in objects else word
        )
    for name, each in objects.items():  # of a plain -m
        made[made.index("-machine") + 1] += f",memory-backend={name}"
        made += ["-object", each]
    return made


def next_check(console: Console) -> str:
    """A check of the guest's memory that ended after this call."""
    console.skip()
    return console.wait_line("CHECK ", time.monotonic() + 60)
