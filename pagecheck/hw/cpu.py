"""The CPU engine: which kernel runs, and the proof that it is right on this machine."""

from __future__ import annotations

from pagecheck.errors import EngineError
from pagecheck.native import _native


def choose_kernel(name: str | None) -> str:
    """Picks a kernel and proves it; none is used unproved.

    Args:
        name: a kernel's name; None for the best that passes its self-check.

    Raises:
        EngineError: it is unknown, cannot run here, or failed its self-check.
    """
    if name is not None:
        prove(name)
        return name
    failures: list[str] = []
    for each, unusable, _untested in _native.kernels():
        if unusable is None:
            try:
                prove(each)
            except EngineError as error:
                failures.append(str(error))
            else:
                return each
    raise EngineError("; ".join(failures))


def prove(name: str) -> None:
    """Runs the kernel's self-check.

    Raises:
        EngineError: it is unknown, cannot run here, or gave a wrong answer.
    """
    try:
        proved = _native.kernel_self_check(name)
    except ValueError as error:
        raise EngineError(str(error)) from error
    if not proved:
        raise EngineError(f"kernel {name}: gave a wrong answer in its self-check; not used")
