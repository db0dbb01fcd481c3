"""The list of kernels that `pagecheck kernels` prints."""

import pytest

from pagecheck.hw import kernels
from pagecheck.native import _native


def test_portable_is_always_there() -> None:
    last = kernels.list_kernels()[-1]
    assert (last.name, last.unusable, last.untested) == ("portable", None, None)


def test_exactly_one_is_automatic_and_it_is_the_best_usable() -> None:
    found = kernels.list_kernels()
    assert [k.name for k in found if k.automatic] == [_native.kernel_auto()]
    assert next(k for k in found if k.unusable is None).automatic


def test_one_that_fails_its_self_check_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    best = _native.kernel_auto()
    monkeypatch.setattr(_native, "kernel_self_check", lambda name: name != best)
    found = {kernel.name: kernel for kernel in kernels.list_kernels()}
    assert "wrong answer" in str(found[best].unusable)
    assert not found[best].automatic
    usable = [kernel.name for kernel in found.values() if kernel.unusable is None]
    assert [kernel.name for kernel in found.values() if kernel.automatic] == usable[:1]
