"""A real guest for the tests: stock Linux in QEMU, its RAM in a file that others can read.

QEMU runs it under TCG, so neither KVM nor root is needed. The guest fills its memory with
known patterns (see `init.sh` and `patterns`), says so on its console, and from then on checks
every few seconds that nothing it wrote has changed.
"""

from tools.guest.errors import DeadlinePassed, GuestError, MissingPiece, QmpError
from tools.guest.guest import Guest
from tools.guest.running import RunningGuest
from tools.guest.snapshot import copy_sparse

__all__ = [
    "DeadlinePassed",
    "Guest",
    "GuestError",
    "MissingPiece",
    "QmpError",
    "RunningGuest",
    "copy_sparse",
]
