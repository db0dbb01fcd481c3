"""Files on file systems that may never answer (FUSE, a network), surveyed by a process of its own.

`aside.py` says why this process must not touch them. The other process searches and checks as this
one does. Of its threads those may wait for ever that check; it goes on without them, and says so.
Where it is silent itself, it waits too, and is left behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pagecheck import aside, clock
from pagecheck.errors import from_wire
from pagecheck.survey.local import LocalRunner
from pagecheck.survey.values import Row, row_of_error, why_stalled
from pagecheck.survey.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pagecheck.survey.values import Options, Target
    from pagecheck.survey.work import Runner

GRACE_S: Final = 2.0
STEP_S: Final = 0.2

# In the other process: called with what was found, and with each row as it comes.
listener: Callable[[str, Any], None] | None = None


def survey_apart(
    kinds: Mapping[str, str], runner: Runner, work: Work, known: Mapping[str, Row]
) -> None:
    """Surveys these paths in another process.

    Args:
        kinds: the kind of the file system of each path.
        runner: that would check them here.
        work: gets the rows.
        known: what an earlier survey has answered, by path.

    Raises:
        PagecheckError: the other process cannot be started, ended without an answer, or cannot go
            on.
    """
    paths = list(kinds)
    given: dict[str, Any] = {"source": paths[0], "paths": paths, "options": runner.options}
    given |= {"channels": runner.channels, "known": dict(known)}
    child = aside.Child("pagecheck.survey.apart", "check_apart", given)
    answered = False
    missing: dict[str, Target] | None = None
    try:
        while (message := _receive(child, runner.options.stall, work)) is not None:
            what, *rest = message
            if what == "found":
                missing = {target.path: target for target in rest[0]}
            elif what == "row":
                row, is_new = rest[0]
                (missing or {}).pop(row.path, None)
                work.emit(row, is_new=is_new)
            elif what == "far":
                work.others(rest[0])
            elif what == "log":
                aside.log.log(*rest)
            elif what == "error":
                answered = True
                raise from_wire(rest[0])
            elif what == "report":
                answered = True
                return
        _say_silent(kinds, missing, work, runner.options.stall)
    finally:
        child.end(answered=answered, clean_up_s=aside.SOON_S)


def _receive(child: aside.Child, stall: float, work: Work) -> Any:
    """The next message; None where it was silent for longer than any of its threads may be."""
    allowance = clock.Allowance(int((stall + GRACE_S) * 1e9), int(STEP_S * 1e9))
    while not allowance.is_used_up():
        if (message := child.receive(clock.now_s() + STEP_S)) is not None:
            return message
        work.watch()
    return None


def _say_silent(
    kinds: Mapping[str, str], missing: Mapping[str, Target] | None, work: Work, stall: float
) -> None:
    """A row for what was not answered: each file where they are known, else each path."""
    if missing is not None:
        for target in missing.values():
            work.emit(row_of_error(target.path, why_stalled(stall), target))
        return
    for path, kind in kinds.items():
        below = "what is below it is not all here"
        work.emit(row_of_error(path, f"{why_stalled(stall, kind)}; {below}"))


def check_apart(
    *,
    source: str,  # noqa: ARG001
    paths: Sequence[str],
    options: Options,
    channels: int,
    known: Mapping[str, Row],
    progress: Callable[[int, int], None],  # noqa: ARG001
) -> None:
    """The other process's work.

    Args:
        source, progress: of any work that is done aside; not used.
    """
    assert listener is not None
    say = listener
    work = _Known(known, say)
    runner = LocalRunner(options, channels, patience_s=options.stall)
    targets = work.found(paths, None)
    say("found", targets)
    work.check(targets, runner)


class _Known(Work):
    """Passes on what it is given; what is known already comes from the one who asked."""

    def __init__(self, known: Mapping[str, Row], say: Callable[[str, Any], None]) -> None:
        super().__init__(None, lambda far: say("far", far))
        self._known = known
        self._say = say

    def answered(self, target: Target) -> Row | None:
        """As `Work.answered`."""
        row = self._known.get(target.path)
        return row if row is not None and row.holds_for(target) else None

    def emit(self, row: Row, *, is_new: bool = True) -> None:
        """As `Work.emit`."""
        super().emit(row, is_new=is_new)
        self._say("row", (row, is_new))
