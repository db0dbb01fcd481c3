"""Which kernel a worker runs, and that none runs unproved."""

import pytest

from pagecheck.errors import EngineError
from pagecheck.hw import cpu
from pagecheck.native import _native

NAMES = [name for name, _why, _untested in _native.kernels()]
UNUSABLE = {name: why for name, why, _untested in _native.kernels()}


def fail(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(cpu._native, "kernel_self_check", lambda name: name not in names)


def test_automatic_choice_is_the_best_usable() -> None:
    assert cpu.choose_kernel(None) == _native.kernel_auto()
    assert cpu.choose_kernel(None) == next(n for n in NAMES if UNUSABLE[n] is None)


@pytest.mark.parametrize("name", NAMES)
def test_each_by_name(name: str) -> None:
    if UNUSABLE[name] is None:
        assert cpu.choose_kernel(name) == name
    else:
        with pytest.raises(EngineError, match=name):
            cpu.choose_kernel(name)


@pytest.mark.parametrize("name", ["", "sse", "AVX2"])
def test_unknown(name: str) -> None:
    with pytest.raises(EngineError, match="no such kernel"):
        cpu.choose_kernel(name)


def test_one_that_fails_its_self_check_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    best = _native.kernel_auto()
    fail(monkeypatch, best)
    with pytest.raises(EngineError, match="wrong answer"):
        cpu.choose_kernel(best)
    if best != "portable":
        assert cpu.choose_kernel(None) != best


def test_none_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, *NAMES)
    with pytest.raises(EngineError, match=r"portable.*wrong answer"):
        cpu.choose_kernel(None)
