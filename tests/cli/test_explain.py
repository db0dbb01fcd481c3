"""`pagecheck scan --explain` and `--range`, on processes with private memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from pagecheck import ExplainedMapping, explain, scan
from pagecheck.errors import UsageError
from tests.support.command import assert_fails, pagecheck, scan_json
from tests.support.stand_ins import stand_in

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1 << 20


@pytest.fixture
def pid() -> Iterator[int]:
    """A process with two private mappings that can be guest RAM, and a file between them."""
    holds = "(private(32 << 20), shared('guard', 4 << 20), private(48 << 20))"
    with stand_in("vmm", does=holds) as number:
        yield number


def of_size(pid: int, size: int) -> ExplainedMapping:
    (found,) = [each for each in explain(f"pid:{pid}") if each.size == size]
    return found


def test_what_cannot_be_told_apart_is_explained_before_the_error(pid: int) -> None:
    done = pagecheck("scan", "--explain", f"pid:{pid}")
    assert done.returncode == 2
    assert done.stdout == ""
    *lines, error = done.stderr.splitlines()
    assert lines[0].split() == ["addresses", "size", "mode", "guest", "RAM", "what", "it", "is"]
    fitting = [line for line in lines if "one of 2 that can be guest RAM" in line]
    assert [line.split()[1:3] for line in fitting] == [["48", "MiB"], ["32", "MiB"]]
    assert "2 mappings can be guest RAM" in error
    assert "name one with --range START-END" in error


def test_a_range_that_is_copied_from_the_table(pid: int) -> None:
    done = pagecheck("scan", "--explain", f"pid:{pid}")
    (addresses,) = [line.split()[0] for line in done.stderr.splitlines() if " 32 MiB " in line]
    report = scan_json("--range", addresses, f"pid:{pid}")
    (block,) = report["blocks"]
    assert (block["name"], block["pages"], block["normal"]) == ("range", 8192, 1)
    assert block["zero"] == 8191


def test_a_part_of_a_mapping(pid: int) -> None:
    start = of_size(pid, 48 * MIB).start
    report = scan(f"pid:{pid}:@{start + 4096:#x}-{start + MIB:#x}")
    assert report.total.pages == report.total.zero == 255


def test_a_range_of_shared_memory() -> None:
    with stand_in("vmm", does="(shared('ram', 64 << 20), shared('other', 32 << 20))") as pid:
        start = of_size(pid, 64 * MIB).start
        report = scan(f"pid:{pid}:@{start + 16 * MIB:x}-{start + 32 * MIB:x}")
    assert report.total.pages == report.total.hole == 4096


def test_the_explanation_beside_json(pid: int) -> None:
    chosen = of_size(pid, 32 * MIB)
    addresses = f"{chosen.start:x}-{chosen.end:x}"
    done = pagecheck("scan", "--json", "--explain", "--range", addresses, f"pid:{pid}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"][0]["name"] == "range"
    mappings = json.loads(done.stderr)["mappings"]
    (by_hand,) = [each for each in mappings if each["verdict"] == "RAM"]
    assert by_hand["start"] == chosen.start
    assert by_hand["size"] == 32 * MIB
    assert by_hand["why"] == "named by hand; else: one of 2 that can be guest RAM"


def test_qemus_words_decide() -> None:
    holds = (
        "[m.madvise(mmap.MADV_DONTFORK) or m for m in"
        " (private(32 << 20), shared('guard', 4 << 20), private(48 << 20))]"
    )
    with stand_in("qemu-system-x86_64", "-m", "48M", does=holds) as pid:
        verdicts = {each.size: (each.verdict, each.why) for each in explain(f"pid:{pid}")}
        report = scan(f"pid:{pid}")
    assert verdicts[48 * MIB][0] == "RAM"
    assert verdicts[48 * MIB][1].startswith("has the 48 MiB of pc.ram; private; ")
    assert verdicts[32 * MIB] == ("unknown", "video memory, or RAM that was plugged later")
    assert [(each.block.name, each.block.size) for each in report.blocks] == [("pc.ram", 48 * MIB)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--range", "zz", "pid:1"], 2, "is not START-END in hex"),
        (["--range", "1000-1000", "pid:1"], 2, "END is exclusive"),
        (["--range", "1000-2001", "pid:1"], 2, "whole pages"),
        (["--range", "1000-2000", "qmp:/x"], 2, "--range is for the addresses of pid:PID"),
        (["--range", "1000-2000", "pid:1:name"], 2, "--range is for the addresses of pid:PID"),
        (["--range", "1000-2000", "/file"], 2, "--range is for the addresses of pid:PID"),
        (["--explain", "qmp:/x"], 2, "give pid:PID"),
        (["--explain", "--via", "/x", "pid:1"], 2, "--explain looks from here"),
    ],
)
def test_mistakes(words: list[str], code: int, message: str) -> None:
    assert_fails(pagecheck("scan", *words), code, message)


def test_a_range_where_nothing_is(pid: int) -> None:
    done = pagecheck("scan", "--range", "1000-2000", f"pid:{pid}")
    assert_fails(done, 2, "nothing is mapped there; --explain shows what is mapped")


def test_only_processes_are_explained() -> None:
    with pytest.raises(UsageError, match="give pid:PID"):
        explain("/dev/shm/ram")
