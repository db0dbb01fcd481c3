"""Private memory in every state that a kernel knows, copied while it is decided."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import pytest

from pagecheck import Coordinator
from tests.support.bitmaps import bits
from tests.support.looking import opened
from tests.support.rams import PAGE, Ram, memfd
from tests.support.states import STATES
from tests.support.target import Area, Target, assert_right, joined, said

LEFT_OUT: Final = {
    # No private memory:
    *("shared_anonymous", "shared_memfd", "userfault_minor", "more_mappings_than_are_kept"),
    "merged_by_ksm",  # read as private files are, and KSM takes its time on a busy host
}


@pytest.fixture(scope="module")
def coordinator(clean_module: None) -> Iterator[Coordinator]:
    with Coordinator(2, "cpu", batch_pages=256) as made:
        yield made


def copy(coordinator: Coordinator, area: Area, sink: Ram, page: int, *, update: bool) -> None:
    """Each page is right, and what is decided is in the file."""
    block = coordinator.attach(
        opened(area), page_size=page, copy_to=sink.fd, copy_update=update, holes="read"
    )
    result = coordinator.scan_block(block)
    coordinator.detach(block)
    count = block.ram.pages
    zero, normal = bits(result.report.zero, count), bits(result.report.normal, count)
    right = joined(area.may, page // PAGE)
    if page != PAGE:  # a page of which a part cannot be had is not copied
        parts = np.pad(area.may, (0, -len(area.may) % (page // PAGE))).reshape(count, -1)
        right = np.where((parts & 4).any(1), right | 4, right)
    assert_right(said(zero, normal), right)
    assert result.write_error is None
    with open(f"/proc/{area.target.pid}/mem", "rb", buffering=0) as memory:
        for index in np.flatnonzero(normal).tolist():
            there = os.pread(memory.fileno(), page, area.base + index * page)
            assert os.pread(sink.fd, page, index * page) == there, index
    for index in np.flatnonzero(zero).tolist():
        assert not any(os.pread(sink.fd, page, index * page)), index
    if not update:  # of a large page that cannot be had whole, pieces may have been written
        assert result.written >= normal.sum()
        assert page > PAGE or result.written == normal.sum()


@pytest.mark.parametrize("name", [name for name in STATES if name not in LEFT_OUT])
def test_each_page(name: str, coordinator: Coordinator) -> None:
    with contextlib.ExitStack() as stack, Target() as target:
        area = STATES[name](target, stack)
        sinks = [(page, stack.enter_context(memfd())) for page in (PAGE, 2 << 20)]
        for page, sink in sinks:
            os.ftruncate(sink.fd, area.pages * PAGE)
            copy(coordinator, area, sink, page, update=False)
            for other in range(0, area.pages, 7):
                os.pwrite(sink.fd, b"older", other * PAGE + 100)
            copy(coordinator, area, sink, page, update=True)
