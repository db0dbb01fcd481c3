"""The CPU engine: which kernel runs, and the proof that it is right on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from pagecheck.errors import EngineError
from pagecheck.native import _native


@dataclass(frozen=True, slots=True)
class Kernel:
    """One CPU kernel of this architecture.

    Attributes:
        unusable: why this CPU cannot run it, or None.
        untested: why no test machine has run it, or None.
        automatic: whether `auto` picks it here.
    """

    name: str
    unusable: str | None
    untested: str | None
    automatic: bool


def list_kernels() -> list[Kernel]:
    """Every kernel that this architecture can have, best first."""
    best = _native.kernel_auto()
    return [
        Kernel(name, unusable, untested, name == best)
        for name, unusable, untested in _native.kernels()
    ]


def choose_kernel(name: str | None) -> str:
    """Picks a kernel and proves it; none is used unproved.

    Args:
        name: a kernel's name; None for the best that passes its self-check.

    Raises:
        EngineError: it is unknown, cannot run here, or failed its self-check.
    """
    if name is not None:
        _prove(name)
        return name
    failures: list[str] = []
    for kernel in list_kernels():
        if kernel.unusable is None:
            try:
                _prove(kernel.name)
            except EngineError as error:
                failures.append(str(error))
            else:
                return kernel.name
    raise EngineError("; ".join(failures))


def _prove(name: str) -> None:
    try:
        proved = _native.kernel_self_check(name)
    except ValueError as error:
        raise EngineError(str(error)) from error
    if not proved:
        raise EngineError(f"kernel {name}: gave a wrong answer in its self-check; not used")


def state(kernel: Kernel) -> tuple[bool, str | None]:
    """Whether the kernel can be used here, and if not, why; runs its self-check."""
    if kernel.unusable is not None:
        return False, kernel.unusable
    try:
        _prove(kernel.name)
    except EngineError as error:
        return False, str(error)
    return True, None
