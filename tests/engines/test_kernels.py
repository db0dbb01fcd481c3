"""Every kernel that runs here: page size x alignment x place of the one non-zero byte."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagecheck.native import _native

KERNELS = [name for name, why, _untested in _native.kernels() if why is None]
SIZES = [4096, 8192, 16384, 65536]
PAGES = 5
GUARD = 128

kernels = pytest.mark.parametrize("kernel", KERNELS)


def decide(
    kernel: str, memory: npt.NDArray[np.uint8], page: int, offsets: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """The kernel's answers; bits past the last page must stay 0."""
    out = np.full(-(-len(offsets) // 64), 2**64 - 1, np.uint64)
    _native.kernel_zero_pages(kernel, memory, page, offsets, out)
    flat = np.unpackbits(out.view(np.uint8), bitorder="little").astype(np.bool_)
    assert not flat[len(offsets) :].any()
    return flat[: len(offsets)]


def guarded(
    page: int, pages: int, shift: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint64]]:
    """Zero pages at an odd address with non-zero bytes before, between and behind them."""
    stride = page + GUARD
    memory = np.full(pages * stride + 2 * GUARD, 0xFF, np.uint8)
    start = (-memory.ctypes.data) % 64 + shift
    offsets = (start + np.arange(pages) * stride).astype(np.uint64)
    for offset in offsets:
        memory[int(offset) : int(offset) + page] = 0
    return memory, offsets


def places(page: int) -> list[int]:
    """Both ends and the borders of every step that a kernel takes, and some in between."""
    borders = [0, 1, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 4095, 4096, page // 2]
    around = {b + d for b in borders for d in (-1, 0, 1)} | {page - b - 1 for b in borders}
    spread = np.random.default_rng(page).integers(0, page, 64).tolist()
    return sorted({p for p in [*around, *spread] if 0 <= p < page})


@kernels
@pytest.mark.parametrize("page", SIZES)
@pytest.mark.parametrize("shift", [0, 1, 8, 31, 63])
def test_one_byte_is_found_in_every_page(kernel: str, page: int, shift: int) -> None:
    memory, offsets = guarded(page, PAGES, shift)
    assert decide(kernel, memory, page, offsets).all()
    for place in places(page):
        for index in range(PAGES):
            at = int(offsets[index]) + place
            memory[at] = 1 << place % 8
            expected = np.arange(PAGES) != index
            assert np.array_equal(decide(kernel, memory, page, offsets), expected), (place, index)
            memory[at] = 0


@kernels
def test_every_place_of_a_page(kernel: str) -> None:
    memory, offsets = guarded(4096, 4096, 0)
    memory[offsets.astype(np.int64) + np.arange(4096)] = 0x80
    assert not decide(kernel, memory, 4096, offsets).any()


@kernels
@pytest.mark.parametrize("count", [0, 1, 2, 3, 63, 64, 65, 127, 128, 129])
def test_group_borders(kernel: str, count: int) -> None:
    memory, offsets = guarded(4096, max(count, 1), 0)
    offsets = offsets[:count]
    odd = np.arange(count) % 3 == 0
    memory[offsets[odd].astype(np.int64) + 77] = 5
    assert np.array_equal(decide(kernel, memory, 4096, offsets), ~odd)


@kernels
def test_a_large_page(kernel: str) -> None:
    page = 2 << 20
    memory = np.zeros(3 * page, np.uint8)
    memory[2 * page - 1] = 1
    offsets = np.array([0, page, 2 * page], np.uint64)
    assert decide(kernel, memory, page, offsets).tolist() == [True, False, True]


@kernels
@given(st.data())
def test_like_numpy(kernel: str, data: st.DataObject) -> None:
    page = data.draw(st.sampled_from(SIZES[:3]), "page")
    total = data.draw(st.integers(1, 24), "pages")
    memory = np.zeros(total * page, np.uint8)
    for place in data.draw(st.lists(st.integers(0, len(memory) - 1), max_size=12), "bytes"):
        memory[place] = data.draw(st.integers(1, 255), "value")
    any_offset = st.integers(0, len(memory) - page)
    offsets = np.array(data.draw(st.lists(any_offset, max_size=140), "offsets"), np.uint64)
    expected = [not memory[o : o + page].any() for o in offsets.astype(np.int64)]
    assert decide(kernel, memory, page, offsets).tolist() == expected


@kernels
@given(st.data())
def test_runs_among_scattered_pages(kernel: str, data: st.DataObject) -> None:
    page = data.draw(st.sampled_from(SIZES), "page")
    total = data.draw(st.integers(1, 40), "pages")
    memory = np.zeros(total * page, np.uint8)
    for place in data.draw(st.lists(st.integers(0, len(memory) - 1), max_size=6), "bytes"):
        memory[place] = 1
    runs = st.tuples(st.integers(0, total - 1), st.integers(1, 20))
    offsets = np.array(
        [
            min(first + i, total - 1) * page
            for first, length in data.draw(st.lists(runs, max_size=20), "runs")
            for i in range(length)
        ],
        np.uint64,
    )
    zero = ~memory.reshape(total, page).any(axis=1)
    expected = zero[(offsets // page).astype(np.int64)]
    assert np.array_equal(decide(kernel, memory, page, offsets), expected)


@kernels
@pytest.mark.parametrize("offset", [1, 4097, 2**64 - 1])
def test_pages_outside_the_memory_are_refused(kernel: str, offset: int) -> None:
    with pytest.raises(ValueError, match="page 0 is outside"):
        decide(kernel, np.zeros(4096, np.uint8), 4096, np.array([offset], np.uint64))


@pytest.mark.parametrize("page", [0, 100, 4097])
def test_impossible_page_sizes_are_refused(page: int) -> None:
    memory = np.zeros(65536, np.uint8)  # large enough that today's answer stays inside it
    with pytest.raises(ValueError, match=str(page)):
        decide("portable", memory, page, np.array([8192], np.uint64))


@kernels
def test_self_check(kernel: str) -> None:
    assert _native.kernel_self_check(kernel) is True


@pytest.mark.parametrize("name", [n for n, why, _u in _native.kernels() if why] + ["none"])
def test_a_kernel_that_cannot_run_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        _native.kernel_self_check(name)
