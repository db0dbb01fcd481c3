"""Snapshots as files: `pagecheck punch` and `pagecheck verify` against what else does that."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

import pagecheck
from pagecheck.shm.extents import by_seeking
from tools.bench.commands import command_seconds, pagecheck_command
from tools.bench.data import BUILD
from tools.bench.rows import Row

SIZE: Final = 1 << 30
READ_BYTES: Final = 1 << 20
PUNCH_AIM: Final = 3.0
VERIFY_AIM: Final = 0.8


def punches(repeats: int) -> list[Row]:
    """A file of zeros, in shared memory and on the disk, as a call and as a command."""
    rows = []
    BUILD.mkdir(parents=True, exist_ok=True)
    for kind, folder in (("tmpfs", Path("/dev/shm")), ("disk", BUILD)):
        taken: dict[str, list[float]] = {"peer": [], "call": [], "command": [], "limit": []}
        for _ in range(repeats):
            for name in taken:
                path = folder / f"pagecheck-bench-{os.getpid()}.zeros"
                try:
                    _write_zeros(path)
                    taken[name].append(_punched(name, path))
                    if os.stat(path).st_blocks * 512 > SIZE // 100:
                        raise RuntimeError(f"{name} left {os.stat(path).st_blocks} blocks")
                finally:
                    path.unlink(missing_ok=True)
        for name, what in (("call", "pagecheck.punch"), ("command", "pagecheck punch")):
            rows.append(_punch_row(what, kind, taken[name], taken["peer"], taken["limit"]))
    return rows


def _write_zeros(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(0, SIZE, READ_BYTES):
            file.write(bytes(READ_BYTES))
        os.fsync(file.fileno())


def _punched(how: str, path: Path) -> float:
    if how == "peer":
        return command_seconds(["fallocate", "--dig-holes", str(path)])
    if how == "command":
        return command_seconds([pagecheck_command(), "punch", str(path)])
    if how == "limit":
        length = ["--offset", "0", "--length", str(SIZE)]
        return command_seconds(["fallocate", "--punch-hole", *length, str(path)])
    start = time.perf_counter()
    pagecheck.punch(path)
    return time.perf_counter() - start


def _punch_row(
    what: str, kind: str, ours: list[float], theirs: list[float], limit: list[float]
) -> Row:
    return Row.of_seconds(
        ours,
        theirs,
        limit,
        what=what,
        case=f"dense 1 GiB of zeros, {kind}",
        peer="fallocate --dig-holes",
        aim=PUNCH_AIM,
        limited_by="the hole itself (the limit makes one of it all and reads nothing)",
    )


def verifies(directory: Path, case: str, repeats: int) -> list[Row]:
    """A saved directory, verified as a call, against one thread that reads its data and makes the
    same checksum."""
    ours, theirs = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        pagecheck.verify(directory)
        ours.append(time.perf_counter() - start)
        theirs.append(sum(_checksummed(path) for path in directory.glob("*.ram")))
    return [
        Row.of_seconds(
            ours,
            theirs,
            what="pagecheck.verify",
            case=case,
            peer="reading the data with the same checksum in C, one thread",
            aim=VERIFY_AIM,
            detail="in the page cache",
        )
    ]


def _checksummed(path: Path) -> float:
    import xxhash

    buffer = bytearray(READ_BYTES)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for begin, end in by_seeking(file.fileno(), 0, size):
            for at in range(begin, end, READ_BYTES):
                got = os.preadv(file.fileno(), [buffer], at)
                xxhash.xxh3_128_digest(memoryview(buffer)[: min(got, end - at)])
    return time.perf_counter() - start


def bytes_on_disk(folder: Path) -> int:
    """What all files of a folder have allocated, once they are written back."""
    subprocess.run(["sync", "-f", str(folder)], check=True)
    return sum(each.stat().st_blocks * 512 for each in folder.iterdir())


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk that every row uses."""
    BUILD.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=BUILD)
