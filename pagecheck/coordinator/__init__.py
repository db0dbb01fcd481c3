"""The coordinator: owns shared memory and workers, plans, submits, publishes, reports.

It never reads guest RAM and never opens a work queue.
"""

from pagecheck.coordinator.block import Block
from pagecheck.coordinator.coordinator import Coordinator

__all__ = ["Block", "Coordinator"]
