"""A stand-in for crosvm, as a process, and one for its program, on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_for

STAND_IN = Path(__file__).with_name("crosvm_program.py")
PAGES = (32 << 20) // 4096


class Crosvm:
    """One that runs."""

    def __init__(self, folder: Path) -> None:
        self.path, self._shown = folder / "crosvm.sock", folder / "shown"
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-E", str(STAND_IN), "run", str(self.path), str(self._shown)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def write(self) -> None:
        """Its device writes guest RAM, and no other process of it runs."""
        Path(f"{self._shown}.device").write_text("x")

    def ask(self, command: str) -> None:
        """By another client."""
        subprocess.run(["crosvm", command, "--full", str(self.path)], check=True)

    def rounds(self) -> str:
        return self._shown.read_text()

    def runs(self) -> bool:
        before = self.rounds()
        return bool(wait_for(lambda: self.rounds() not in ("", before), "the guest runs"))

    def is_suspended(self) -> bool:
        """Whether that was the last request."""
        return Path(f"{self._shown}.state").read_text() == "suspended"

    def end(self) -> None:
        self.process.communicate("")


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the program crosvm on PATH; gives its file."""
    file = folder / "bin" / "crosvm"
    file.parent.mkdir()
    file.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {STAND_IN} "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")
    return file
