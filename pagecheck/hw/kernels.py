"""The CPU kernels as people see them: `pagecheck kernels`."""

from __future__ import annotations

from dataclasses import dataclass

from pagecheck.errors import EngineError
from pagecheck.hw.cpu import prove
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


def state(kernel: Kernel) -> tuple[bool, str | None]:
    """Whether the kernel can be used here, and if not, why; runs its self-check."""
    if kernel.unusable is not None:
        return False, kernel.unusable
    try:
        prove(kernel.name)
    except EngineError as error:
        return False, str(error)
    return True, None
