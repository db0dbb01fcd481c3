"""`pagecheck selftest`: kernels, queues and random worlds on the host as it is.

Only memory, files and processes of its own are read, written and killed.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pagecheck import clock
from pagecheck.errors import (
    InternalError,
    PagecheckError,
    ResourceError,
    SourceError,
    UsageError,
)
from pagecheck.hw.probe import probe
from pagecheck.hw.queues import usable_queues, why_no_device
from pagecheck.selftest import host
from pagecheck.selftest.examine import examine
from pagecheck.selftest.kernels import try_kernel, usable_kernels
from pagecheck.selftest.places import Place, candidates
from pagecheck.selftest.report import Failure, Part, SelftestReport
from pagecheck.selftest.run import Hung
from pagecheck.selftest.shrink import shortest
from pagecheck.selftest.trial import Tried, run_world
from pagecheck.selftest.world import Choice, World, make, parse
from pagecheck.selftest.wrong import Wrong
from pagecheck.shortage import explain

MINUTES_MAX: Final = 7 * 24 * 60.0
SEED_MAX: Final = 1 << 32
MODELS: Final = (
    "model:",
    "model:mode=dedicated,faults=random",
    "model:mode=write,faults=page-fault",
    "model:faults=random,batch=16,size=8",
    "model:mode=dedicated,faults=list-fault,engines=2",
)
FAILURES_MAX: Final = 5
SHRINK_S: Final = 20.0


class SoFar(NamedTuple):
    """How far a self-test is.

    Attributes:
        seconds, of_seconds: that have passed, and that it lasts.
        worlds: that were run.
        failures: that were found.
    """

    seconds: float
    of_seconds: float
    worlds: int
    failures: int


def selftest(
    minutes: float = 1.0,
    *,
    seed: int = 1,
    world: str | None = None,
    folders: Sequence[str] = (),
    progress: Callable[[SoFar], None] = lambda _so_far: None,
) -> SelftestReport:
    """Tests what this host has for so long.

    Args:
        minutes: more than 0, at most a week; what has begun by then ends, and each place has at
            least one world.
        seed: of the first world; those that follow have the numbers behind it.
        world: run only the world that this line describes, once.
        folders: where RAM files are made too, beside /dev/shm and the folder of temporary files.
        progress: called before each world.

    Returns:
        The report; what was wrong is in it, and is not raised.

    Raises:
        UsageError: an argument is invalid, or there is no such world.
        SourceError: one of the folders cannot be used.
        ResourceError: the host lacks what every world needs.
    """
    if not 0 < minutes <= MINUTES_MAX:
        raise UsageError(f"minutes {minutes}: must be more than 0 and at most {MINUTES_MAX:.0f}")
    if not 0 <= seed < SEED_MAX:
        raise UsageError(f"seed {seed}: must be 0 to {SEED_MAX - 1}")
    one = None if world is None else parse(world)
    test = _Selftest(minutes * 60, seed, [os.path.abspath(each) for each in folders], progress)
    return test.run(one)


class _Selftest:
    """One self-test, and what it has found so far."""

    def __init__(
        self, seconds: float, seed: int, folders: list[str], progress: Callable[[SoFar], None]
    ) -> None:
        self._started = clock.now_s()
        self._seconds = seconds
        self._seed = seed
        self._folders = folders
        self._progress = progress
        self._parts: dict[str, Part] = {}
        self._failures: list[Failure] = []
        self._places: dict[str, Place] = {}
        self._worlds = 0
        self._sum = Tried(0, 0, 0)
        self._is_over = False
        self._shortage = ""

    def run(self, one: World | None) -> SelftestReport:
        """All of it, or one world."""
        self._examine_places(None if one is None else one.place)
        if self._is_over:
            pass
        elif one is not None:
            if one.place in self._places:
                self._run_world(one, is_given=True)
        else:
            kernels, queues = self._try_kernels(), self._try_queues()
            self._run_worlds(Choice(list(self._places.values()), kernels, [*queues, *MODELS]))
        if not self._sum.answers and not self._failures:
            why = self._shortage or "; ".join(filter(None, (p.note for p in self._parts.values())))
            raise ResourceError(f"no world could be tried: {why}")
        return SelftestReport(
            seed=self._seed,
            seconds=round(clock.now_s() - self._started, 1),
            worlds=self._worlds,
            **self._sum._asdict(),
            parts=tuple(self._parts.values()),
            failures=tuple(self._failures),
            host=host.facts(self._places.values()),
        )

    def _examine_places(self, wanted: str | None) -> None:
        found = candidates(self._folders)
        if wanted is not None and wanted not in [place.name for place in found]:
            raise UsageError(
                f"place {wanted!r}: is not one of {', '.join(place.name for place in found)}; a "
                "folder is given with --in"
            )
        for place in found:
            if wanted in (None, place.name) and not self._is_over:
                self._examine(place)

    def _examine(self, place: Place) -> None:
        part = f"place {place.name}"
        self._add(part, unit="worlds")
        try:
            usable, note = examine(place)
        except (Wrong, InternalError) as error:
            self._fail(part, str(error), self._again(), repeated=False)
            self._is_over = self._is_over or isinstance(error, Hung)
            return
        self._add(part, note=note)
        if usable is not None:
            self._places[place.name] = usable
        elif place.name in self._folders:
            raise SourceError(f"{place.name}: {note}")

    def _try_kernels(self) -> list[str]:
        """Compares each; the names of those that are right."""
        right = []
        for name in usable_kernels():
            part = f"kernel {name}"
            try:
                self._add(part, try_kernel(name, self._seed), unit="pages")
                right.append(name)
            except Wrong as error:
                self._fail(part, str(error), self._again(), repeated=False)
        return right

    def _try_queues(self) -> list[str]:
        """Tests the host's, and a software device; the names of the host's."""
        queues = [queue.path for queue in usable_queues(probe=True)]
        if not queues:
            self._add("queues of this host", unit="steps", note=why_no_device())
        for name in [*queues, MODELS[0]]:
            part = f"queue {name}"
            steps = probe(name).steps
            self._add(part, len(steps), unit="steps")
            for step in steps:
                if not step.ok:
                    again = f"pagecheck devices --probe {name}"
                    self._fail(part, f"{step.name}: {step.said}", again, repeated=False)
        return queues

    def _run_worlds(self, choice: Choice) -> None:
        if not choice.places or not choice.kernels:
            return
        for number in itertools.count():
            passed = clock.now_s() - self._started
            self._progress(SoFar(passed, self._seconds, self._worlds, len(self._failures)))
            if self._is_over or (number >= len(choice.places) and passed >= self._seconds):
                return
            self._run_world(make((self._seed + number) % SEED_MAX, choice, number))

    def _run_world(self, world: World, *, is_given: bool = False) -> None:
        part = f"place {world.place}"
        self._worlds += 1
        self._add(part, 1)
        try:
            tried = run_world(world, self._places)
            self._sum = Tried(*(a + b for a, b in zip(self._sum, tried, strict=True)))
        except Exception as error:
            if is_given and isinstance(error, UsageError):
                raise UsageError(f"world {world.line()!r}: {error}") from error
            shortage = str(error) if isinstance(error, ResourceError) else explain(error)
            if shortage is not None:
                self._add(part, -1, note=f"some were not tried: {shortage}")
                self._shortage = shortage
                return
            self._is_over = isinstance(error, Hung)
            self._fail_world(part, world, error)

    def _fail_world(self, part: str, world: World, error: Exception) -> None:
        """Notes it, with the simplest world that fails likewise."""

        def fails(simpler: World) -> bool:
            try:
                run_world(simpler, self._places)
            except Exception as other:
                return type(other) is type(error)
            return False

        repeated = False
        if not self._is_over:
            world, repeated = shortest(world, fails, SHRINK_S)
        again = f"{self._again(seed=False)} --world {shlex.quote(world.line())}"
        is_ours = isinstance(error, (Wrong, PagecheckError))
        text = str(error) if is_ours else f"{type(error).__name__}: {error}"
        self._fail(part, text, again, repeated=repeated)

    def _again(self, *, seed: bool = True) -> str:
        """The command line that does the same."""
        words = ["pagecheck", "selftest"]
        for each in self._folders:
            words += ["--in", each]
        return shlex.join([*words, "--seed", str(self._seed)] if seed else words)

    def _fail(self, part: str, message: str, again: str, *, repeated: bool) -> None:
        self._add(part, wrong=1)
        self._failures.append(Failure(part, message, again, repeated))
        self._is_over = self._is_over or len(self._failures) >= FAILURES_MAX

    def _add(
        self, name: str, tried: int = 0, *, unit: str = "", wrong: int = 0, note: str = ""
    ) -> None:
        known = self._parts.get(name, Part(name, 0, unit, 0, ""))
        self._parts[name] = known._replace(
            tried=known.tried + tried,
            unit=unit or known.unit,
            wrong=known.wrong + wrong,
            note=note or known.note,
        )
