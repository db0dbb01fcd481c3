"""How a job on a channel ends."""

from __future__ import annotations


class ChannelLost(Exception):
    """The channel cannot be kept alive; its unfinished pages stay undecided."""


class TooLate(Exception):
    """The job's deadline passed while a worker was started or spoken to."""


class Outcome:
    """What one run on one channel did.

    Attributes:
        decided, undecided: pages.
        late: the deadline passed before the worker could be asked.
        lost: the channel cannot be kept alive and must not be used again.
        notes: what a user should know.
    """

    def __init__(
        self, *, lost: bool = False, late: bool = False, notes: list[str] | None = None
    ) -> None:
        self.decided = 0
        self.undecided = 0
        self.lost = lost
        self.late = late
        self.notes = notes or []

    @property
    def doubtful(self) -> bool:
        """Whether the channel should be leased after the others."""
        return self.late or self.undecided > 0
