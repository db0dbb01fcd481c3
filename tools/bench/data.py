"""Files of made-up RAM, in /dev/shm or on a disk, and the C programs of the benchmarks."""

import mmap
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "bench"
_CHUNK = 64 << 20


def compiled(name: str, *more: Path, includes: Sequence[Path] = ()) -> Path:
    """Compiles `NAME.c` of this folder and returns the program.

    Args:
        more: other sources.
        includes: folders of headers.

    Raises:
        subprocess.CalledProcessError: it does not compile.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    source, program = Path(__file__).parent / f"{name}.c", BUILD / name
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
    flags += [f"-I{folder}" for folder in includes]
    subprocess.run(["gcc", *flags, source, *more, "-o", program, "-lrt"], check=True)
    return program


class RamFile:
    """A file with pages of one kind, mapped for the benchmark's own use.

    Attributes:
        path: where it is.
        view: its bytes, read-only.
    """

    def __init__(self, case: str, size: int, folder: Path = Path("/dev/shm")) -> None:
        """Writes it.

        Args:
            case: `zero`, `half` (a random half of the pages is normal from byte 0 on) or
                `random` (random bytes throughout).
            size: bytes, a multiple of 64 MiB.
            folder: where it is made, e.g. on a disk.
        """
        self.path = folder / f"pagecheck-bench-{os.getpid()}-{case}.ram"
        self._size = size
        rng = np.random.default_rng(1)
        with self.path.open("wb") as file:
            for _ in range(0, size, _CHUNK):
                file.write(_chunk(case, rng))

    def __enter__(self) -> "RamFile":
        with self.path.open("rb") as file:
            self.view = mmap.mmap(file.fileno(), self._size, prot=mmap.PROT_READ)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.view.close()
        self.path.unlink()


def _chunk(case: str, rng: np.random.Generator) -> bytes:
    if case == "random":
        return rng.bytes(_CHUNK)
    pages = np.zeros((_CHUNK // 4096, 4096), np.uint8)
    if case == "half":
        pages[rng.random(len(pages)) < 0.5] = 0x55
    return pages.tobytes()
