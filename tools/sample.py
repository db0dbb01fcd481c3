"""Makes a sample RAM snapshot: a synthetic guest, sparse, with a realistic mix of pages.

It imitates a small idle Linux guest as measured in real ones: most of the RAM was never touched
(holes), some pages were written and are zero again, the rest is data of several kinds.
"""

from __future__ import annotations

import random
from pathlib import Path

import click

PAGE = 4096
SIZE = 256 << 20


def make(path: Path, size: int, seed: int) -> None:
    """Writes the snapshot.

    Args:
        size: bytes, a multiple of 1 MiB.
        seed: the same seed gives the same bytes.
    """
    rng = random.Random(seed)
    text = (b"made-up guest page cache: the quick brown fox " * 90)[:PAGE]
    with path.open("wb") as file:
        file.truncate(size)
        at = 0
        while at < size:
            run = min(rng.choice((1, 4, 16, 64, 256)) * PAGE, size - at)
            kind = rng.choices(("hole", "zero", "text", "random", "sparse"), (70, 6, 8, 10, 6))[0]
            for page in range(at, at + run, PAGE):
                file.seek(page)
                if kind == "zero":
                    file.write(bytes(PAGE))
                elif kind == "text":
                    file.write(text)
                elif kind == "random":
                    file.write(rng.randbytes(PAGE))
                elif kind == "sparse":
                    file.seek(page + rng.randrange(PAGE))
                    file.write(b"\x01")
            at += run


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--mib", type=click.IntRange(1), default=SIZE >> 20, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
def main(path: Path, mib: int, seed: int) -> None:
    """Write a synthetic sample snapshot to PATH."""
    make(path, mib << 20, seed)
    print(f"{path}: a synthetic guest of {mib} MiB (seed {seed})")


if __name__ == "__main__":
    main()
