"""From a snapshot to a guest that runs: `pagecheck restore` and `pagecheck clone` against QEMU's
`-incoming` of a migration file of the same guest."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.bench.commands import pagecheck_command
from tools.bench.rows import Row, Spread
from tools.guest.errors import GuestError, MissingPiece
from tools.guest.qmp import Qmp

START_S: Final = 30.0
LOOK_S: Final = 0.001
CLONES: Final = 4


class Monitor:
    """A QMP socket of a QEMU that somebody starts: waits for its guest, and ends it.

    Attributes:
        options: for that QEMU's command line; its guest has a serial port, as it was saved.
    """

    def __init__(self, path: Path, *, continues: bool = False) -> None:
        """Nothing is connected yet.

        Args:
            continues: it continues the guest once that is loaded, as it was stopped when saved.
        """
        self._path = path
        self._continues = continues
        self._qmp: Qmp | None = None
        self.options = ("-serial", "null", "-qmp", f"unix:{path},server=on,wait=off")

    def wait_running(self, deadline: float) -> None:
        """Returns once the guest runs."""
        while (status := self._status(deadline)) != "running":
            if status == "paused" and self._continues:
                assert self._qmp is not None
                self._qmp.execute("cont", {}, deadline)
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self._path}: no guest runs")
            time.sleep(LOOK_S)

    def _status(self, deadline: float) -> str:
        if self._qmp is None:
            client = socket.socket(socket.AF_UNIX)
            try:
                client.connect(str(self._path))
            except OSError:  # not there yet
                client.close()
                return ""
            self._qmp = Qmp(client, deadline)
        return str(self._qmp.execute("query-status", {}, deadline)["status"])

    def quit(self) -> None:
        """Ends QEMU."""
        if self._qmp is not None:
            with contextlib.suppress(Exception):  # it hangs up
                self._qmp.execute("quit", {}, time.monotonic() + 10)


def started(
    command: Sequence[str], monitors: Sequence[Monitor], out: Path = Path(os.devnull)
) -> float:
    """Seconds from the start of a command until the first of its guests runs; all are ended.

    Args:
        out: gets what the command prints; it is waited for.
    """
    start = time.monotonic()
    with _running(command, out) as process:
        monitors[0].wait_running(start + START_S)
        taken = time.monotonic() - start
        for each in monitors[1:]:
            each.wait_running(start + START_S)
        while out != Path(os.devnull) and not out.stat().st_size:
            time.sleep(LOOK_S)
        for each in monitors:
            each.quit()
        process.wait(START_S)
    return taken


@contextlib.contextmanager
def _running(command: Sequence[str], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    with out.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(START_S)


def restores(folder: Path, case: str, machine: list[str], repeats: int) -> list[Row]:
    """A restore of `folder/saved` against `-incoming` of `folder/migrated`.

    Args:
        machine: QEMU's command line, without a monitor.
    """
    ours, theirs = [], []
    for number in range(repeats):
        name = f"pagecheck-bench-{os.getpid()}-{number}"
        try:
            monitor = Monitor(folder / f"ours-{number}")
            command = [pagecheck_command(), "restore", str(folder / "saved"), "--quiet"]
            command += ["--ram", f"shm:/{name}", "--exec", "--", *machine, *monitor.options]
            ours.append(started(command, [monitor]))
        finally:
            Path(f"/dev/shm/{name}").unlink(missing_ok=True)
        monitor = Monitor(folder / f"theirs-{number}", continues=True)
        incoming = ["-incoming", f"exec:cat {folder / 'migrated'}"]
        theirs.append(started([*machine, *incoming, *monitor.options], [monitor]))
    return [
        Row.of_seconds(
            ours,
            theirs,
            what="pagecheck restore --exec, to a running guest",
            case=case,
            peer="-incoming of the migration file",
            aim=2.0,
            detail="every byte verified first",
        )
    ]


def clones(
    folder: Path, case: str, machine: list[str], repeats: int, restore_ms: float
) -> list[Row]:
    """Four clones of `folder/saved`: when the first runs, and what each costs in memory.

    Args:
        restore_ms: what a restore took in the same run.
    """
    first, own = [], []
    for number in range(repeats):
        names = [folder / f"clone-{number}-{n + 1}" for n in range(CLONES)]
        monitors = [Monitor(name) for name in names]
        command = [pagecheck_command(), "clone", str(folder / "saved"), "--json"]
        command += ["-n", str(CLONES), "--", *machine]
        command += Monitor(folder / f"clone-{number}-{{n}}").options
        out = folder / "clones.json"
        first.append(started(command, monitors, out))
        own += [each["private_bytes"] for each in json.loads(out.read_text())["clones"]]
    return [
        Row(
            what="pagecheck clone -n 4, until the first runs",
            case=case,
            peer="pagecheck restore",
            ratio=Spread.of([restore_ms / 1e3 / each for each in first]),
            aim=5.0,
            ours=1e3 * sorted(first)[len(first) // 2],
            theirs=restore_ms,
            limit=None,
            unit="ms",
        ),
        Row(
            what="pagecheck clone -n 4, a clone's own memory",
            case=case,
            peer="",
            ratio=None,
            aim=None,
            ours=sorted(own)[len(own) // 2] / 2**20,
            theirs=None,
            limit=None,
            unit="MiB",
            note="its written pages and QEMU's own",
        ),
    ]


def if_it_works(what: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows, or one that says why there are none."""
    try:
        return measure()
    except MissingPiece:
        raise
    except (OSError, RuntimeError, GuestError, subprocess.SubprocessError) as error:
        return [Row(what, "", "", None, None, None, None, None, note=str(error)[:100])]
