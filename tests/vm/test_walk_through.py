"""The first thing that the README shows, a VM saved, restored and cloned, runs as it is written."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.command import environment
from tests.support.waiting import wait_for
from tools.guest import RunningGuest
from tools.guest.fetch import GuestFiles

pytestmark = pytest.mark.timeout(180)

README = (Path(__file__).parents[2] / "README.md").read_text()
(BLOCK,) = re.findall(r"^```sh\n(vm=.*?)^```", README, re.MULTILINE | re.DOTALL)
VM, START, LOOK, RESTORE, CLONE = (
    part.strip("\n")
    for part in re.split(r'^(?="\$)|^(?=pagecheck (?:vms|restore|clone))', BLOCK, flags=re.M)
)
SECONDS = 90.0


class Shell:
    """A bash that is given one part after the other, as a person would."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.folder = folder
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self._bash = subprocess.Popen(
                ["bash", "-s"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env={**environment(), "PATH": path},
                start_new_session=True,
            )

    def type(self, text: str) -> None:
        """Has it carried out; returns when what is in the foreground has ended."""
        assert self._bash.stdin is not None
        self._count = getattr(self, "_count", 0) + 1
        done = f"typed {self._count}"
        self._bash.stdin.write(f"{text}\necho {done}\n".encode())
        self._bash.stdin.flush()
        wait_for(lambda: done in self.text(), f"{text}\n{self.text()}", SECONDS)

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def qemu(self, log: str) -> int:
        """The QEMU that it started with this log, once its console is there."""
        wait_for(lambda: self._qemus(log) and (self.folder / log).exists(), log, SECONDS)
        return self._qemus(log)[0]

    def _qemus(self, log: str) -> list[int]:
        found = []
        for each in psutil.Process(self._bash.pid).children(recursive=True):
            try:
                words = each.cmdline()
            except psutil.Error:
                continue
            if words and words[0].startswith("qemu-system") and f"file:{log}" in words:
                found.append(each.pid)
        return found

    def close(self) -> None:
        for each in psutil.Process(self._bash.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # a clone ends when its QEMU does
                each.terminate()
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.wait(SECONDS)


@pytest.fixture
def shell(guest_files: GuestFiles, tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "vmlinuz").symlink_to(guest_files.kernel)
    (tmp_path / "initrd").symlink_to(guest_files.initramfs)
    found = Shell(tmp_path)
    yield found
    found.close()


@pytest.mark.long
def test_a_vm_is_saved_restored_and_cloned(shell: Shell, tmp_path: Path) -> None:
    shell.type(VM)
    shell.type(START)
    with RunningGuest.on_file(shell.qemu("vm1.log"), tmp_path / "vm1.log") as guest:
        guest.wait_line("CHECK 2 OK", SECONDS)
        last = guest.count()
        shell.type(LOOK)
    said = shell.text()
    assert f"qmp:{tmp_path}/vm1.qmp" in said
    assert "the VM was stopped for" in said
    assert "vm1.saved: whole" in said
    shell.type(RESTORE)
    _goes_on(shell, tmp_path / "restored.log", last)
    shell.type(CLONE)
    for number in range(1, 5):
        _goes_on(shell, tmp_path / f"clone{number}.log", last)
    assert "Traceback" not in shell.text()


def _goes_on(shell: Shell, log: Path, last: int) -> None:
    pid = shell.qemu(log.name)
    with RunningGuest.on_file(pid, log) as guest:
        guest.goes_on(last)
