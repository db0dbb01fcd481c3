"""What a self-test found."""

from __future__ import annotations

from typing import Any, NamedTuple


class Part(NamedTuple):
    """One kind of thing that was tried.

    Attributes:
        name: "kernel avx2", "queue model:", "place shm", ...
        tried: how often: worlds of a place, pages of a kernel, steps of a queue.
        unit: what `tried` counts.
        wrong: how often something was wrong.
        note: why it was not tried, or what of it; "" for nothing.
    """

    name: str
    tried: int
    unit: str
    wrong: int
    note: str


class Failure(NamedTuple):
    """One thing that was wrong.

    Attributes:
        part: the name of its `Part`.
        message: what was wrong.
        again: the command line that repeats it.
        repeated: it was wrong again, in the world that `again` describes.
    """

    part: str
    message: str
    again: str
    repeated: bool


class SelftestReport(NamedTuple):
    """What a self-test found.

    Attributes:
        seed: of its first world.
        seconds: how long it lasted.
        worlds, answers, kills, saves: how many were run, compared, sent, and saved and restored.
        parts: what was tried.
        failures: what was wrong.
        host: facts about this host, for whoever reads a report of an error.
    """

    seed: int
    seconds: float
    worlds: int
    answers: int
    kills: int
    saves: int
    parts: tuple[Part, ...]
    failures: tuple[Failure, ...]
    host: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Nothing was wrong."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The document of `pagecheck selftest --json`."""
        return {
            "version": 1,
            "ok": self.ok,
            **self._asdict(),
            "parts": [each._asdict() for each in self.parts],
            "failures": [each._asdict() for each in self.failures],
        }
