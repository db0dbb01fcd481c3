"""The coordinator: owns shared memory and workers, plans, submits, publishes, reports.

It never reads guest RAM and never opens a work queue. Nothing is loaded before it is used: the
first worker starts while the rest is loaded.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any

    from pagecheck.coordinator.block import Block
    from pagecheck.coordinator.coordinator import Coordinator

__all__ = ["Block", "Coordinator"]


def __getattr__(name: str) -> Any:
    """Loads a public name."""
    if name == "Coordinator":
        from pagecheck.coordinator.coordinator import Coordinator

        return Coordinator
    if name == "Block":
        from pagecheck.coordinator.block import Block

        return Block
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
