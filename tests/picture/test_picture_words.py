"""What stands around pictures."""

import numpy as np
import pytest

from pagecheck.model import Region
from pagecheck.picture import words
from pagecheck.picture.memory import of_report
from tests.picture.worlds import NORMAL, block_of, report_of


@pytest.mark.parametrize(
    ("count", "pages", "text"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 1 << 28, "under 0.1 %"),
        ((1 << 28) - 1, 1 << 28, "over 99.9 %"),
        (1, 1000, "0.1 %"),
        (999, 1000, "99.9 %"),
        (1, 3, "33.3 %"),
        (0, 0, "0 %"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_nothing(count: int, pages: int, text: str) -> None:
    assert words.share(count, pages) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (4096, "4 KiB"), (1536, "1.5 KiB"), (1 << 40, "1 TiB"), (1 << 64, "16 EiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert words.size_text(size) == text


def test_one_page_is_one_page() -> None:
    memory = of_report(report_of(block_of(np.full(1, NORMAL, np.uint8))))
    assert words.title(memory) == "guest.ram: 4 KiB, 1 page"
    assert words.counts(memory) == {NORMAL: "normal: 1 page, 100 %"}


def test_an_offset_beside_addresses_names_its_block() -> None:
    states = np.zeros(20, np.uint8)
    alone = of_report(report_of(block_of(states, "pc.ram")))
    assert words.address(alone, alone.spans[0], 3) == "0x3000"
    part = Region(0x100000, 15 * 4096, 0, 0)
    mixed = of_report(report_of(block_of(states, "pc.ram", (part,))))
    first, second = mixed.spans
    assert words.address(mixed, first, 3) == "0x103000"
    assert words.address(mixed, second, 3) == "pc.ram+0x12000"
