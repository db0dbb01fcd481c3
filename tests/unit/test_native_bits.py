"""Bitmap and offset functions of the C helper against numpy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pagecheck
from pagecheck.native import Feed, _native
from tests.unit.native_entries import SLOT_PAGES, ring

BITS = 320
ROOT = Path(pagecheck.__file__).parents[1]

bools = st.lists(st.booleans(), min_size=1, max_size=BITS).map(lambda x: np.array(x, np.bool_))
parts = st.tuples(st.integers(0, BITS), st.integers(0, BITS)).filter(lambda p: sum(p) <= BITS)


def words_of(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    padded = np.zeros(-(-len(bits) // 64) * 64, np.bool_)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view(np.uint64)


def bits_of(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.unpackbits(words.view(np.uint8), bitorder="little").astype(np.bool_)


@given(st.binary(min_size=BITS // 8, max_size=BITS // 8), parts)
def test_set_and_clear(content: bytes, part: tuple[int, int]) -> None:
    first, count = part
    for change, value in ((_native.bits_set, True), (_native.bits_clear, False)):
        words = np.frombuffer(bytearray(content), np.uint64)
        expected = bits_of(words)
        expected[first : first + count] = value
        change(words, first, count)
        assert np.array_equal(bits_of(words), expected)


@given(bools, st.integers(0, BITS))
def test_count(bits: NDArray[np.bool_], some: int) -> None:
    some = min(some, len(bits))
    assert _native.bits_count(words_of(bits), some) == np.count_nonzero(bits[:some])


@given(bools, st.integers(0, BITS - 1))
def test_run(bits: NDArray[np.bool_], start: int) -> None:
    start %= len(bits)
    differs = np.flatnonzero(bits[start:] != bits[start])
    end = start + int(differs[0]) if len(differs) else len(bits)
    assert _native.bits_run(words_of(bits), len(bits), start) == (bool(bits[start]), end)


def test_run_ends_at_the_last_bit_even_where_padding_goes_on() -> None:
    assert _native.bits_run(np.full(1, 2**64 - 1, np.uint64), 10, 3) == (True, 10)
    assert _native.bits_run(np.zeros(2, np.uint64), 70, 0) == (False, 70)
    assert _native.bits_run(np.array([1 << 20], np.uint64), 10, 3) == (False, 10)


@pytest.mark.parametrize(
    "call",
    [
        lambda: _native.bits_set(bytearray(8), 1, 64),
        lambda: _native.bits_clear(bytearray(8), 64, 1),
        lambda: _native.bits_set(bytearray(8), 2**63, 2**63),
        lambda: _native.bits_set(bytearray(8), -1, 2),
        lambda: _native.bits_count(bytes(8), 65),
        lambda: _native.bits_run(bytes(8), 65, 0),
        lambda: _native.bits_run(bytes(8), 64, 64),
        lambda: _native.bits_count(memoryview(bytearray(17))[1:], 64),
    ],
)
def test_out_of_range(call: object) -> None:
    with pytest.raises(ValueError, match=r"words|range|last bit"):
        call()  # type: ignore[operator]


@pytest.mark.parametrize(
    "call", ["bits_count(bytes(8), 2**64 - 1)", "bits_run(bytes(8), 2**64 - 1, 10**9)"]
)
def test_huge_bit_counts_are_refused(call: str) -> None:
    code = f"from pagecheck.native._native import *\ntry: {call}\nexcept ValueError: print('ok')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert ran.stdout == b"ok\n"


def test_read_only_words_are_refused() -> None:
    with pytest.raises(BufferError):
        _native.bits_set(bytes(8), 0, 1)


PAGE = 4096
offset = st.integers(0, 40).map(lambda n: n * PAGE) | st.integers(0, 2**64 - 1)


edges = st.sampled_from([2**63, 2**63 - PAGE, 2**63 + PAGE, 2**64 - PAGE])


@given(st.lists(offset | edges, min_size=1, max_size=50), st.integers(1, 32))
def test_a_check_takes_pages_of_its_block_only(offsets: list[int], pages: int) -> None:
    target = _native.check_target(0, PAGE, pages * PAGE, SLOT_PAGES, 50, 0, pages * PAGE, 1)
    good = not any(o % PAGE or o >= pages * PAGE for o in offsets)
    with ring() as fds:
        feed = Feed(*fds)
        array = np.array(offsets, np.uint64)
        assert feed.submit_check(target, array) == (len(offsets) if good else 0)
        feed.close()


@given(st.lists(offset, max_size=50), st.integers(1, 32))
def test_offsets_check(offsets: list[int], pages: int) -> None:
    array = np.array(offsets, np.uint64)
    bad = [i for i, o in enumerate(offsets) if o % PAGE or o >= pages * PAGE]
    assert _native.offsets_check(array, PAGE, pages * PAGE) == (bad[0] if bad else -1)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255)), max_size=100))
def test_offsets_partition(pairs: list[tuple[int, int]]) -> None:
    offsets = np.array([o for o, _ in pairs], np.uint64)
    zero = np.zeros(-(-len(pairs) // 8) * 8 + 8, np.uint8)[: len(pairs)]
    zero[:] = [z for _, z in pairs]
    out = np.empty_like(offsets)
    normal = _native.offsets_partition(offsets, zero, out)
    assert normal == np.count_nonzero(zero == 0)
    assert out.tolist() == offsets[zero == 0].tolist() + offsets[zero != 0].tolist()


def test_partition_needs_room() -> None:
    offsets = np.zeros(4, np.uint64)
    with pytest.raises(ValueError, match="out"):
        _native.offsets_partition(offsets, np.zeros(8, np.uint8), np.zeros(3, np.uint64))
    with pytest.raises(ValueError, match="zero"):
        _native.offsets_partition(offsets, np.zeros(3, np.uint8), np.zeros(4, np.uint64))
