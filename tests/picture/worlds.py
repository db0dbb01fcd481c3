"""Memories whose every page's state is known, as reports of a scan and as numpy arrays."""

import numpy as np
import numpy.typing as npt

from pagecheck.model import Counts, RamBlock, Region
from pagecheck.picture.states import STATES
from pagecheck.report.report import BlockReport, Report

PAGE = 4096
ZERO, HOLE, NORMAL, UNDECIDED, UNCHANGED = range(len(STATES))
States = npt.NDArray[np.uint8]


def packed(bits: npt.NDArray[np.bool_]) -> memoryview:
    """A bitmap as a report has it."""
    padded = np.zeros(-(-len(bits) // 64) * 64, np.bool_)
    padded[: len(bits)] = bits
    return memoryview(np.packbits(padded, bitorder="little").tobytes())


def block_of(
    states: States, name: str = "ram", regions: tuple[Region, ...] = (), *, diff: bool = False
) -> BlockReport:
    """The report of a block whose pages have these states."""
    number = np.bincount(states, minlength=len(STATES)).tolist()
    zero = number[ZERO] + (0 if diff else number[HOLE])
    holes = 0 if diff else number[HOLE]
    counts = Counts(len(states), zero, holes, number[NORMAL], number[UNDECIDED], number[UNCHANGED])
    hole = packed(states == HOLE)
    return BlockReport(
        RamBlock(name, len(states) * PAGE, PAGE),
        counts,
        packed((states == ZERO) | (states == HOLE)),
        packed(states == NORMAL),
        packed(states == UNCHANGED) if diff else None,
        regions=regions,
        hole=None if diff else hole,
    )


def report_of(*blocks: BlockReport, source: str = "guest.ram") -> Report:
    """The report of a scan of these blocks."""
    return Report(source, "at-rest", "cpu", "avx2", 1, PAGE, 1.0, 0.1, 0, blocks)


def runs_of_states(pages: int, seed: int = 1, *, diff: bool = False, run: int = 40) -> States:
    """Pages in runs of random lengths, of the states that a scan of that kind finds."""
    random = np.random.default_rng(seed)
    among = [ZERO, NORMAL, UNDECIDED, UNCHANGED if diff else HOLE]
    lengths = random.geometric(1 / run, 2 * pages // run + 10)
    states = np.repeat(random.choice(among, len(lengths)), lengths)[:pages]
    while len(states) < pages:
        states = np.concatenate([states, states])[:pages]
    return states.astype(np.uint8)


def counted(states: States, each: int, first: int = 0) -> list[list[int]]:
    """The pages of each state in each cell, the first cell beginning `first` pages earlier."""
    cells = []
    for start in range(-first, len(states), each):
        part = states[max(0, start) : start + each]
        cells.append(np.bincount(part, minlength=len(STATES)).tolist())
    return cells
