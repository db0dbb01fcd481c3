"""The twelve rows that matter from day to day, in less than two minutes: `make bench-quick`."""

from collections.abc import Iterator
from typing import Final

from tools.bench import channel, commands, kernels, pool, private, sparse, startup
from tools.bench.rows import Row

RAM_BYTES: Final = 512 << 20  # past the last cache of most machines
MOST: Final = 7  # repeats of a suite

# What a row is called, in parts, by the suite that it comes from.
KERNELS: Final = (
    ("1 thread", "all zero, in order", "pure read"),
    ("1 thread", "half-half mix, random order", "QEMU's method"),
    ("1 thread", "normal in the last byte, random order", "QEMU's method"),
)
POOL: Final = (("default batches", "all zero", "bare kernel"),)
CHANNEL: Final = (("by Coordinator.check", "", ""),)
PRIVATE: Final = (("CPU time", "", ""),)
FRAGMENTED: Final = (("pagecheck scan", "each second page a hole", "dense file's scan"),)


def _kept(rows: list[Row], wanted: tuple[tuple[str, str, str], ...]) -> Iterator[Row]:
    """One row for each that is wanted.

    Raises:
        LookupError: there is none such any more.
    """
    for parts in wanted:
        found = [r for r in rows if all(a in b for a, b in zip(parts, r.name, strict=True))]
        if not found:
            raise LookupError(f"no row {parts}")
        yield found[0]


def run(repeats: int) -> list[Row]:
    """Measures them.

    Args:
        repeats: of each, seven at most.

    Returns:
        Twelve rows.
    """
    repeats = min(repeats, MOST)
    return [
        *_kept(kernels.run(repeats, RAM_BYTES, None), KERNELS),
        *_kept(pool.run(repeats), POOL),
        *_kept(channel.run(repeats), CHANNEL),
        *_kept(private.dense(repeats, "half", "small", 1), PRIVATE),
        private.untouched(repeats),
        *commands.against_fallocate(repeats),
        *_kept(sparse.fragmented(repeats, "tmpfs", 512 << 20), FRAGMENTED),
        *startup.whole_commands(repeats),
    ]
