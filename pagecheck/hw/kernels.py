"""The CPU kernels as people see them: `pagecheck kernels`."""

from __future__ import annotations

from dataclasses import dataclass

from pagecheck.errors import EngineError
from pagecheck.hw.cpu import self_test
from pagecheck.native import _native


@dataclass(frozen=True, slots=True)
class Kernel:
    """One CPU kernel of this architecture.

    Attributes:
        unusable: why it cannot be used here, or None.
        untested: why no test machine has run it, or None.
        automatic: whether `auto` picks it here: the first that is usable.
    """

    name: str
    unusable: str | None
    untested: str | None
    automatic: bool


def list_kernels() -> list[Kernel]:
    """Every kernel that this architecture can have, best first; runs their self-tests."""
    found: list[Kernel] = []
    for name, why_not, untested in _native.kernels():
        unusable = why_not or _failure(name)
        automatic = unusable is None and not any(kernel.automatic for kernel in found)
        found.append(Kernel(name, unusable, untested, automatic))
    return found


def _failure(name: str) -> str | None:
    try:
        self_test(name)
    except EngineError as error:
        return str(error)
    return None
