"""Real guests that are saved whole, and what brings them back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pagecheck
from tests.support.command import PAGECHECK, environment
from tests.support.guests import booted
from tests.support.waiting import wait_for
from tools.guest import RunningGuest


class SavedGuest(NamedTuple):
    """A guest in a snapshot.

    Attributes:
        directory: the snapshot.
        command: the user's command for it, without console and monitors.
        last: the last check of its memory that it counted before.
        blocks: its RAM blocks.
    """

    directory: Path
    command: list[str]
    last: int
    blocks: list[str]


def save(
    directory: Path,
    *,
    backend: str = "private",
    extra: Sequence[str] = (),
    compress: Literal["zstd"] | None = None,
    **asked: Any,
) -> SavedGuest:
    """Boots a guest and saves it, stopped where the count is known; see `Guest.boot`."""
    with tempfile.TemporaryDirectory(prefix="pctest-", dir="/dev/shm") as name:
        qmp = ("-qmp", f"unix:{name}/qmp,server=on,wait=off")
        with booted(
            backend=backend,
            random_mb=2,
            zeros_mb=1,
            check_every_s=0,
            extra=(*extra, *qmp),
            **asked,
        ) as guest:
            guest.wait_check()
            guest.pause()
            last = guest.count()
            report = pagecheck.save(f"qmp:{name}/qmp", directory, compress=compress)
            command = [word for word in guest.command if word not in qmp]
    return SavedGuest(directory, command, last, [each.block.name for each in report.blocks])


@contextlib.contextmanager
def restored(
    saved: SavedGuest, ram: Path, log: Path, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """`pagecheck restore --exec` of a guest whose console goes to a file; all is ended at last."""
    words = [PAGECHECK, "restore", str(saved.directory), *options, "--exec", "--"]
    log.touch()
    front = subprocess.Popen(
        [*words, *saved.command, "-serial", f"file:{log}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        yield front
    finally:
        front.kill()
        front.wait()
        end_qemus(ram)
        assert front.stdout is not None
        front.stdout.close()


def goes_on(pid: int, log: Path, last: int) -> bool:
    """Whether the guest counts on, its memory as it was."""
    with RunningGuest.on_file(pid, log) as guest:
        return guest.goes_on(last) > last


def end_qemus(path: Path) -> None:
    """Kills the QEMUs whose command line names something, and waits for their ends."""
    for pid in qemus_of(path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not qemus_of(path), "QEMU is gone", 20)


def qemus_of(path: Path) -> list[int]:
    """QEMUs whose command line names something."""
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            is_qemu = os.path.basename(words[0]).startswith(b"qemu-system-")
            if is_qemu and any(os.fsencode(path) in word for word in words):
                found.append(int(each))
    return found
