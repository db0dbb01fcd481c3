"""What people see: sizes, columns, the table, runs."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.cli.present import ProgressBar, columns, guest_runs, runs, size_text, table
from pagecheck.model import Counts, RamBlock, Region
from pagecheck.report.report import BlockReport, Report

KINDS = ("zero", "normal", "unchanged", "undecided")


def make_block(kinds: list[str], name: str = "pc.ram", *, diff: bool = True) -> BlockReport:
    def words(kind: str) -> memoryview:
        bits = np.zeros(-(-len(kinds) // 64) * 64, np.bool_)
        bits[: len(kinds)] = np.array(kinds) == kind
        return memoryview(np.packbits(bits, bitorder="little").view(np.uint64)).cast("B")

    numbers = {kind: kinds.count(kind) for kind in KINDS}
    counts = Counts(len(kinds), hole=0, **numbers)
    ram = RamBlock(name, len(kinds) * 4096, 4096)
    unchanged = words("unchanged") if diff else None
    return BlockReport(ram, counts, words("zero"), words("normal"), unchanged)


def make_report(*blocks: BlockReport, channels: int = 2, kernel: str | None = "avx2") -> Report:
    return Report(
        "s", "live", "cpu", kernel, channels, 4096, 3.0, 1.0, 4 * 10**9, blocks, ("beware",)
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (4 << 20, "4 MiB"),
        (1 << 40, "1 TiB"),
        (1 << 50, "1 PiB"),
        (1 << 62, "4096 PiB"),
    ],
)
def test_size_text(size: int, text: str) -> None:
    assert size_text(size) == text


def test_columns_align() -> None:
    assert columns([["a", "b", ""], ["ccc", "1,000", "x"]]) == "a        b\nccc  1,000  x"


def test_table_of_one_block() -> None:
    lines = table(
        make_report(make_block(["zero", "normal", "normal", "undecided"], diff=False))
    ).split("\n")
    assert lines[0].split("  ")[-1].strip() == "zero share"
    assert lines[1].split() == ["pc.ram", "16", "KiB", "4", "1", "0", "2", "1", "25.0", "%"]
    assert lines[2].startswith(
        "engine cpu, kernel avx2, 2 channels; 3.00 s (start-up 1.00 s), 2.0 GB/s"
    )
    assert "live: a hint" in lines[2]
    assert lines[3:] == ["note: beware"]


def test_table_of_a_diff_has_one_more_column() -> None:
    lines = table(make_report(make_block(["zero", "unchanged", "unchanged", "normal"]))).split("\n")
    assert "unchanged" in lines[0]
    assert lines[1].split()[-3:] == ["2", "25.0", "%"]


def test_table_of_two_blocks_has_a_total() -> None:
    lines = table(make_report(make_block(["zero"], "a"), make_block(["normal"] * 3, "b"))).split(
        "\n"
    )
    assert lines[3].split()[:4] == ["total", "16", "KiB", "4"]


def test_summary_without_kernel_and_with_one_channel() -> None:
    text = table(make_report(make_block(["zero"]), channels=1, kernel=None))
    assert "engine cpu, 1 channel;" in text


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=200), st.booleans())
def test_runs_cover_every_page(kinds: list[str], diff: bool) -> None:
    if not diff:
        kinds = ["undecided" if kind == "unchanged" else kind for kind in kinds]
    found: list[str] = []
    last = None
    for first, count, kind in runs(make_block(kinds, diff=diff)):
        assert first == len(found)
        assert count > 0
        assert kind != last
        found += [kind] * count
        last = kind
    assert found == kinds


def test_bar_appears_after_a_second() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with ProgressBar(stream) as bar:
        bar(1, 2)
        assert stream.getvalue() == ""
        bar._started -= 10
        bar(1, 2)
    assert "scanning" in stream.getvalue()
    with ProgressBar(stream, doing="saving") as bar:
        bar._started -= 10
        bar(1 << 20, 2 << 20)
    assert "saving" in stream.getvalue()
    assert "1.0/2.0 MiB" in stream.getvalue()


def test_runs_where_the_guest_sees_them() -> None:
    """Two regions, out of order and with a part that the guest does not see."""
    zero, normal = bytearray(8), bytearray(8)
    zero[0], normal[0] = 0b00001111, 0b11110000
    regions = (Region(1 << 32, 4 * 4096, 0, 0x10000 + 4 * 4096), Region(0, 2 * 4096, 0, 0x10000))
    block = BlockReport(
        RamBlock("b", 8 * 4096, 4096, 0x10000),
        Counts(8, 4, 0, 4),
        memoryview(zero),
        memoryview(normal),
        regions=regions,
    )
    assert list(guest_runs(block)) == [(0, 0x2000, "zero"), (1 << 32, 0x4000, "normal")]
    cut = block._replace(regions=(Region(0x7000, 3 * 4096, 0, 0x10000 + 3 * 4096),))
    assert list(guest_runs(cut)) == [(0x7000, 0x1000, "zero"), (0x8000, 0x2000, "normal")]
