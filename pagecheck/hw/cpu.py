"""The CPU engine: which kernel runs, and its self-test on this machine."""

from __future__ import annotations

from pagecheck.errors import EngineError
from pagecheck.native import _native


def choose_kernel(name: str | None) -> str:
    """Picks a kernel and tests it; none is used untested.

    Args:
        name: a kernel's name; None for the best that passes its self-test.

    Raises:
        EngineError: it is unknown, cannot run here, or failed its self-test.
    """
    if name is not None:
        self_test(name)
        return name
    failures: list[str] = []
    for each, unusable, _untested in _native.kernels():
        if unusable is None:
            try:
                self_test(each)
            except EngineError as error:
                failures.append(str(error))
            else:
                return each
    raise EngineError("; ".join(failures))


def self_test(name: str) -> None:
    """Runs the kernel's self-test.

    Raises:
        EngineError: it is unknown, cannot run here, or gave a wrong answer.
    """
    try:
        passed = _native.kernel_self_check(name)
    except ValueError as error:
        raise EngineError(str(error)) from error
    if not passed:
        raise EngineError(f"kernel {name}: gave a wrong answer in its self-test; not used")
