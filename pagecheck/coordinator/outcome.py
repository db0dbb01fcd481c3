"""How a job on a channel ends."""

from __future__ import annotations


class ChannelLost(Exception):
    """The channel cannot be kept alive; its unfinished pages stay undecided.

    Attributes:
        passing: for want of something that may be there again later; else for good.
    """

    def __init__(self, why: str, *, passing: bool = False) -> None:
        super().__init__(why)
        self.passing = passing


class TooLate(Exception):
    """The job's deadline passed while a worker was started or spoken to."""


class Outcome:
    """What one run on one channel did.

    Attributes:
        decided, undecided: pages.
        late: the deadline passed before the worker could be asked.
        lost: the channel cannot be kept alive and must not be used again.
        shortage: what the host did not give; the channel may be used again later.
        notes: what a user should know.
    """

    def __init__(
        self, *, lost: bool = False, late: bool = False, notes: list[str] | None = None
    ) -> None:
        self.decided = 0
        self.undecided = 0
        self.lost = lost
        self.late = late
        self.shortage: str | None = None
        self.notes = notes or []

    @classmethod
    def of(cls, error: ChannelLost) -> Outcome:
        """The outcome of a channel that could not be kept alive before anything was given out."""
        outcome = cls()
        outcome.fail(error)
        return outcome

    def fail(self, error: ChannelLost) -> None:
        """Takes note that the channel could not be kept alive."""
        if error.passing:
            self.shortage = str(error)
        else:
            self.lost = True

    @property
    def doubtful(self) -> bool:
        """Whether the channel should be leased after the others."""
        return self.late or self.undecided > 0
