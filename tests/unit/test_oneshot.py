"""What `pagecheck.scan` answers where its workers were not ready in time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pagecheck import oneshot
from pagecheck.model import RamBlock, Region
from pagecheck.sources import Found, Opened


@pytest.mark.parametrize("gpa", [False, True])
def test_a_block_that_nobody_looked_at_has_its_place_in_the_guest(gpa: bool) -> None:
    source: Any = SimpleNamespace(notes=("a doubt",))
    found = Found(source, RamBlock("pc.ram", 1 << 20, 4096), (Region(0, 1 << 20, 0, 0),))
    opened = Opened("qmp:/run/vm", 4096, [found], None)
    options = {"engine": "cpu", "channels": 1, "wq": (), "gpa": gpa}
    report = oneshot._nothing_decided(opened, options, 0.5)
    (block,) = report.blocks
    assert block.counts.undecided == 256
    assert block.regions == (found.regions if gpa else ())
    assert report.notes[0] == "a doubt"
