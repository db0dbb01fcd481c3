"""Faults at a chosen call of libc, of a process of ours in C and Python alike: see `faults.c`."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import pytest

_SOURCE: Final = Path(__file__).with_name("faults.c")

# What is in the command line of each process of ours, and of no other one.
COMMAND: Final = "bin/pagecheck"
WORKER: Final = "pagecheck.workers"
WATCHDOG: Final = "vmm.hold.watchdog"
ASIDE: Final = "import aside"

PEER_FAULTS: Final = ("lost", "late", "twice", "cut", "unsent", "empty", "error")


@functools.cache
def library() -> Path:
    """It, built."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler, which makes the library that faults come from")
    folder = Path(tempfile.mkdtemp(prefix="pctest-faults-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    made = folder / "faults.so"
    strict = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"]
    shared = ["-shared", "-fPIC", _SOURCE, "-o", made, "-ldl", "-pthread"]
    subprocess.run([compiler, *strict, *shared], check=True, timeout=60)
    return made


def preloaded(**settings: object) -> dict[str, str]:
    """What the environment of a program has so that the library is in it, with these settings."""
    given = {f"FAULT_{name.upper()}": str(value) for name, value in settings.items()}
    return {"LD_PRELOAD": str(library()), **given}


class Fault:
    """One signal, or one call that fails.

    Attributes:
        who: of which process, a part of its command line.
        at: before the call of that number.
        does: the signal's number, or minus an error number.
    """

    def __init__(
        self, folder: Path, who: str, at: int, does: int, times: int = 1, call: str = ""
    ) -> None:
        """Prepares it.

        Args:
            folder: an empty one that is the fault's own.
            times: how many processes it happens to.
            call: the only function whose calls are counted; empty: all of them.
        """
        self.who, self.at, self.does, self.call = who, at, does, call
        self._folder, self._times = folder, times
        folder.mkdir(exist_ok=True)
        for number in range(times):
            (folder / str(number)).touch()

    def __repr__(self) -> str:
        return f"Fault(who={self.who!r}, at={self.at} {self.call}, does={self.does})"

    def environment(self) -> dict[str, str]:
        only = {"call": self.call} if self.call else {}
        return preloaded(who=self.who, at=self.at, does=self.does, lives=self._folder, **only)

    def happened(self) -> int:
        """How often it did."""
        return self._times - len(list(self._folder.iterdir()))


class PeerFault:
    """One message of a QEMU's monitors that goes wrong.

    Attributes:
        at: the number of the message.
        how: of PEER_FAULTS.
    """

    def __init__(self, folder: Path, at: int, how: str) -> None:
        """Prepares it, in an empty folder that is its own."""
        self.at, self.how = at, how
        self._life = folder / "0"
        folder.mkdir(exist_ok=True)
        self._life.touch()

    def environment(self) -> dict[str, str]:
        folder = self._life.parent
        return preloaded(who="qemu-system", at=self.at, peer=self.how, lives=folder)

    def happened(self) -> bool:
        return not self._life.exists()
