"""Reports of two pages of bitmap words, written as `--out` writes them."""

from pathlib import Path

from pagecheck.model import Counts, Kind, RamBlock
from pagecheck.report.bitmap_files import Output
from pagecheck.report.report import BlockReport, Report

FILES = ["pc.ram.normal", "pc.ram.zero", "report.json"]


def make_report(name: str = "pc.ram", *, diff: bool = False, fill: int = 0) -> Report:
    def words(value: int) -> memoryview:
        return memoryview(bytes([value + fill]) * 16)

    ram = RamBlock(name, 70 * 4096, 4096)
    block = BlockReport(ram, Counts(70), words(1), words(2), words(3) if diff else None)
    return Report("s", "at-rest", "cpu", "avx2", 1, 4096, 1.0, 0.1, 0, (block,))


def write(out: Path, name: str = "pc.ram", *, diff: bool = False, fill: int = 0) -> Report:
    kind: Kind = "diff" if diff else "full"
    with Output(out, [name], kind, ["source"]) as output:
        return output.write(make_report(name, diff=diff, fill=fill))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
