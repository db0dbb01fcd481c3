"""One kill: a command, which process of it, before which call or when, by which signal; and what
must hold afterwards, the same for all."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from pagecheck.shm.owner import sweep
from tests.stress.victims import PAUSE_S, STALL_S, VICTIMS, Site
from tests.support import command
from tests.support.faults import WORKER, Fault
from tests.support.leftovers import ownerless
from tests.support.processes import state_of
from tests.support.waiting import holds_within, wait_for

FROZEN_S: Final = 1.5 * max(PAUSE_S, STALL_S)  # past every deadline
ENDS_S: Final = 30.0
CALLS: Final = 200  # no process makes more of them that matter

# By (command, process): the calls that it makes, as far as that has been learned.
_calls: dict[tuple[str, str], int] = {}


class Kill:
    """One of them, made by a seed.

    Attributes:
        what: the command, a name of VICTIMS.
        who: the process that is killed at a call; "": those that there are at a random moment.
    """

    def __init__(self, what: str, who: str, number: signal.Signals, seed: int) -> None:
        self.what, self.who, self.number, self.seed = what, who, number, seed
        self._dice = random.Random(f"{what} {who} {number} {seed}")
        self._killed: list[str] = []

    def __repr__(self) -> str:
        return f"{self.what}, {self.who or 'any'}, {self.number.name}, seed {self.seed}"

    def happens(self, site: Site, folder: Path) -> int:
        """Runs the command, kills, judges; gives how many were killed."""
        before = ownerless()
        done = self._run_and_kill_at_a_call(site, folder) if self.who else self._run(site, {})
        try:
            VICTIMS[self.what].judge(site, done, self._is_whole())
            self._require_message(done)
            self._require_nothing_left(before)
        except BaseException as error:
            error.add_note(f"{self}: {self._killed}; {done.returncode}: {done.stderr}")
            raise
        finally:
            site.clear()
        return len(self._killed)

    def _run_and_kill_at_a_call(self, site: Site, folder: Path) -> command.Done:
        key = (self.what, self.who)
        for _ in range(20):
            at = self._dice.randrange(_calls.setdefault(key, CALLS))
            fault = Fault(folder, self.who, at, self.number)
            done = self._run(site, fault.environment())
            if fault.happened():
                self._killed.append(f"{self.who} before call {at}")
                return done
            _calls[key] = max(at, 1)
            site.clear()
        raise AssertionError(f"{self}: it never happened")

    def _run(self, site: Site, environment: dict[str, str]) -> command.Done:
        arguments = VICTIMS[self.what].arguments(site)
        env = {**command.environment(), **environment}
        with command.start(*arguments, env=env) as process:
            try:
                if not self.who:
                    self._kill_at_random()
                self._await_end(process)
            finally:
                process.kill()
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _kill_at_random(self) -> None:
        """One process or two at a moment when they run, or none if there is none any more."""
        time.sleep(self._dice.uniform(0, 0.4))  # a random moment is the test
        there = command.tagged_processes()
        for pid in self._dice.sample(there, min(len(there), self._dice.choice([1, 2]))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.number)
                self._killed.append(f"process {pid}")

    def _await_end(self, process: subprocess.Popen[str]) -> None:
        """Its end; what stopped is continued, past every deadline."""
        stopped_at: dict[int, float] = {}

        def ended() -> bool:
            for pid in command.tagged_processes() if self.number == signal.SIGSTOP else ():
                if state_of(pid) == "T":
                    since = stopped_at.setdefault(pid, time.monotonic())
                    if time.monotonic() - since > FROZEN_S:
                        os.kill(pid, signal.SIGCONT)
            return process.poll() is not None

        wait_for(ended, f"{self}: its end", ENDS_S)

    def _is_whole(self) -> bool:
        """Whether all of the work must have been done."""
        return self.who == WORKER and self.what not in ("save-held", "save-live", "punch-held")

    def _require_message(self, done: command.Done) -> None:
        """One line, or none of who was killed itself."""
        assert "Traceback" not in done.stderr
        assert "a bug in pagecheck" not in done.stderr
        if done.returncode in (2, 3, 4, 5):
            assert done.stderr.startswith("pagecheck: ")

    def _require_nothing_left(self, before: set[str]) -> None:
        wait_for(lambda: not command.tagged_processes(), f"{self}: no process left", ENDS_S)
        if self.number == signal.SIGKILL:
            sweep(0)  # as the next start does
        holds_within(3, lambda: not ownerless() - before)
        assert not ownerless() - before
