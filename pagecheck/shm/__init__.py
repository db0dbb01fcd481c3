"""Shared memory: segments and who owns them, the ring's layout, bitmaps, RAM sources."""

from pagecheck.shm.bitmaps import BlockBitmaps
from pagecheck.shm.owner import Owner, sweep
from pagecheck.shm.ram import RamSource, open_source
from pagecheck.shm.ring import Ring
from pagecheck.shm.segments import Segment

__all__ = ["BlockBitmaps", "Owner", "RamSource", "Ring", "Segment", "open_source", "sweep"]
