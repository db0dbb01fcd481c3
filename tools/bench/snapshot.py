"""Saves of a real guest against QEMU's own ways, from the stop to the file on the disk.

The guest runs under TCG with a plain `-m`; all rows of a size are of the same guest, in the same
run, on the same disk. A peer's whole time ends with an fsync, as ours does.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tools.bench.commands import pagecheck_command
from tools.bench.private_guest import if_there_is_a_guest
from tools.bench.rows import Row, Spread
from tools.bench.snapshot_files import bytes_on_disk, punches, scratch, verifies
from tools.bench.snapshot_restore import clones, if_it_works, restores
from tools.guest import Guest

SIZE: Final = 1 << 30
COMMAND_S: Final = 120.0
LOOK_S: Final = 0.002
IMAGE: Final = "state.qcow2"
REPEATS_MAX: Final = 3  # each takes seconds
WRITE_MIB_S: Final = 50
# MiB in use: what the guest keeps and what it frees again (half as much), and the kernel's own.
IN_USE: Final = {200: 72, 900: 540}
STOPPED: Final = "time the VM is stopped, pagecheck save"


class Took(NamedTuple):
    """One save: seconds for which the VM was stopped, and seconds until it was on the disk."""

    stopped: float
    whole: float


@contextlib.contextmanager
def booted(folder: Path, random_mb: int, **how: Any) -> Iterator[tuple[Guest, str]]:
    """A guest with a monitor for us and an image that can hold a snapshot of its own."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", str(folder / IMAGE), "4G"]
    subprocess.run(create, check=True)
    how = {"random_mb": random_mb, "zeros_mb": 16, "timeout_s": 600, **how}
    with Guest.boot(size_bytes=SIZE, backend="private", extra=_extra(folder), **how) as guest:
        yield guest, str(folder / "qmp")


def _extra(folder: Path) -> tuple[str, ...]:
    node = f"driver=qcow2,node-name=state,file.driver=file,file.filename={folder / IMAGE}"
    return ("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off", "-blockdev", node)


def saved(path: str, directory: Path, *options: str) -> dict[str, Any]:
    """The report of `pagecheck save`, with `whole`: the seconds that the command took."""
    shutil.rmtree(directory, ignore_errors=True)
    command = [pagecheck_command(), "save", "--json", "--max-pause", "60", *options]
    command += ["--disks", "none", f"qmp:{path}", str(directory)]
    start = time.monotonic()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout), "whole": time.monotonic() - start}


def migrated(guest: Guest, file: Path, *, live: bool) -> Took:
    """QEMU's own migration into a file, stopped before it or by itself at the end."""
    guest.qmp("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 300})
    start = time.monotonic()
    if not live:
        guest.qmp("stop")
    guest.qmp("migrate", uri=f"exec:cat > {file}")
    while (state := guest.qmp("query-migrate"))["status"] not in ("completed", "failed"):
        time.sleep(LOOK_S)
    if state["status"] == "failed":
        raise RuntimeError(f"migrate: {state}")
    guest.qmp("cont")
    stopped = state["downtime"] / 1e3 if live else time.monotonic() - start
    _synced(file)
    return Took(stopped, time.monotonic() - start)


def dumped(guest: Guest, file: Path) -> Took:
    """`dump-guest-memory`, which holds no devices."""
    start = time.monotonic()
    guest.qmp("stop")
    arguments = {"paging": False, "protocol": f"file:{file}"}
    guest.qmp("dump-guest-memory", within_s=COMMAND_S, **arguments)
    guest.qmp("cont")
    stopped = time.monotonic() - start
    _synced(file)
    return Took(stopped, time.monotonic() - start)


def snapshot_saved(guest: Guest, image: Path) -> Took:
    """`snapshot-save` into a qcow2 image, which stops the VM as long as it lasts."""
    job: dict[str, Any] = {
        "job-id": "save",
        "tag": "bench",
        "vmstate": "state",
        "devices": ["state"],
    }
    start = time.monotonic()
    guest.qmp("snapshot-save", **job)
    _job_done(guest, "save")
    stopped = time.monotonic() - start
    _synced(image)
    whole = time.monotonic() - start
    drop: dict[str, Any] = {"job-id": "drop", "tag": "bench", "devices": ["state"]}
    guest.qmp("snapshot-delete", **drop)
    _job_done(guest, "drop")
    return Took(stopped, whole)


def _job_done(guest: Guest, name: str) -> None:
    while True:
        job = next(each for each in guest.qmp("query-jobs") if each["id"] == name)
        if job["status"] == "concluded":
            guest.qmp("job-dismiss", id=name)
            if "error" in job:
                raise RuntimeError(f"{name}: {job['error']}")
            return
        time.sleep(LOOK_S)


def _synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def stopped_saves(in_use: int, repeats: int) -> list[Row]:
    """A save of a stopped VM: how long it stands still, the whole time, the bytes, a check."""
    case = f"1 GiB guest, {in_use} MiB in use, plain -m"
    ours: list[Took] = []
    peers: dict[str, list[Took]] = {}
    with scratch() as made, booted(Path(made), IN_USE[in_use]) as (guest, path):
        folder, file = Path(made), Path(made) / "ram"
        ways: dict[str, Callable[[], Took]] = {
            "stop and migrate to a file": lambda: migrated(guest, file, live=False),
            "dump-guest-memory": lambda: dumped(guest, file),
            "snapshot-save": lambda: snapshot_saved(guest, folder / IMAGE),
        }
        for _ in range(repeats):
            report = saved(path, folder / "saved")
            ours.append(Took(report["pause"]["seconds"], report["whole"]))
            for name, way in ways.items():
                peers.setdefault(name, []).append(way())
                file.unlink(missing_ok=True)
        normal = report["total"]["normal"] * report["page_size"]
        stored = bytes_on_disk(folder / "saved")
        migrated(guest, folder / "migrated", live=False)
        machine = [word for word in guest.command if word not in _extra(folder)]
        guest.qmp("stop")
        checked = verifies(folder / "saved", case, repeats)
        restore = "pagecheck restore --exec, to a running guest"
        checked += if_it_works(restore, lambda: restores(folder, case, machine, repeats))
        checked += _clones(folder, case, machine, repeats, checked[-1].ours)
    detail = f"{normal >> 20} MiB of normal pages, load {os.getloadavg()[0]:.1f}"
    rows = [_row(STOPPED, case, n, ours, t, "stopped", 3.0, detail) for n, t in peers.items()]
    what = "whole time, pagecheck save"
    rows += [_row(what, case, n, ours, t, "whole", 2.0, detail) for n, t in peers.items()]
    return [*rows, _bytes_row(case, normal, stored), *checked]


def _clones(
    folder: Path, case: str, machine: list[str], repeats: int, restore_ms: float | None
) -> list[Row]:
    if restore_ms is None:
        return []
    what = "pagecheck clone -n 4, until the first runs"
    return if_it_works(what, lambda: clones(folder, case, machine, repeats, restore_ms))


def live_saves(repeats: int) -> list[Row]:
    """`--live` beside a guest that writes all the time, against a live migration's downtime."""
    ours: list[Took] = []
    theirs: list[Took] = []
    with (
        scratch() as made,
        booted(Path(made), IN_USE[200], write_mib_s=WRITE_MIB_S, check_every_s=2) as (guest, path),
    ):
        file = Path(made) / "ram"
        for _ in range(repeats):
            report = saved(path, Path(made) / "saved", "--live")
            ours.append(Took(report["pause"]["seconds"], report["whole"]))
            theirs.append(migrated(guest, file, live=True))
            file.unlink()
    case = f"1 GiB guest that writes {WRITE_MIB_S} MiB/s"
    detail = f"load {os.getloadavg()[0]:.1f}"
    what, peer = "time the VM is stopped, pagecheck save --live", "live migrate to a file"
    return [_row(what, case, peer, ours, theirs, "stopped", 1.0, detail)]


def _row(
    what: str,
    case: str,
    peer: str,
    ours: list[Took],
    theirs: list[Took],
    which: str,
    aim: float,
    detail: str,
) -> Row:
    mine = [getattr(each, which) for each in ours]
    others = [getattr(each, which) for each in theirs]
    return Row.of_seconds(mine, others, what=what, case=case, peer=peer, aim=aim, detail=detail)


def _bytes_row(case: str, normal: int, stored: int) -> Row:
    return Row(
        what="bytes on disk, pagecheck save",
        case=case,
        peer="normal pages",
        ratio=Spread.of([normal / stored]),
        aim=1 / 1.01,
        ours=stored / 2**20,
        theirs=normal / 2**20,
        limit=None,
        unit="MiB",
    )


def run(repeats: int) -> list[Row]:
    """Everything about snapshots."""
    few = min(repeats, REPEATS_MAX)
    rows = if_it_works("pagecheck.punch", lambda: punches(few))
    for in_use in IN_USE:
        rows += _measured(lambda n=in_use: stopped_saves(n, few))  # type: ignore[misc]
    return [*rows, *_measured(lambda: live_saves(few))]


def _measured(measure: Callable[[], list[Row]]) -> list[Row]:
    return if_there_is_a_guest(STOPPED, lambda: if_it_works(STOPPED, measure))
