"""Commands on a host that is short of something, interrupts every call, fails one, or whose time of
day jumps: each is right and whole, or ends with one line and leaves nothing."""

from __future__ import annotations

import errno
import random
import resource
from pathlib import Path
from typing import Any, Final

import pytest

from pagecheck.shm.owner import sweep
from tests.stress.budget import Budget
from tests.stress.victims import VICTIMS, Site
from tests.support import command
from tests.support.faults import COMMAND, WATCHDOG, WORKER, Fault, preloaded
from tests.support.leftovers import ownerless
from tests.support.waiting import holds_within, wait_for

pytestmark = pytest.mark.long

ALARM_US: Final = 700
YEARS_S: Final = 10 * 365 * 86400

# What the kernel may answer, by function: such as a full disk, a disk that fails, no memory.
ERRORS: Final = {
    "pread": (errno.EIO,),
    "pread64": (errno.EIO,),
    "preadv64v2": (errno.EIO,),
    "pwrite": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "pwrite64": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fallocate": (errno.ENOSPC, errno.EIO, errno.EOPNOTSUPP),
    "ftruncate64": (errno.ENOSPC, errno.EFBIG),
    "fsync": (errno.EIO, errno.ENOSPC),
    "renameat2": (errno.EIO, errno.ENOSPC),
    "mkdirat": (errno.ENOSPC, errno.EROFS),
    "mkdir": (errno.ENOSPC, errno.EROFS),
    "fchmod": (errno.EIO, errno.EPERM),
    "flock": (errno.ENOLCK,),
    "mmap": (errno.ENOMEM,),  # the C core's; mmap64 is Python's, also for its own objects
    "mincore": (errno.EAGAIN,),
    "memfd_create": (errno.EMFILE, errno.ENOMEM),
    "shm_open": (errno.ENOSPC, errno.EMFILE),
    "socketpair": (errno.EMFILE, errno.ENFILE),
    "connect": (errno.ECONNREFUSED, errno.EAGAIN),
    "sendmsg": (errno.ENOBUFS, errno.ENOMEM),
    "lseek": (errno.EIO,),
    "posix_spawn": (errno.EAGAIN, errno.ENOMEM),
    "pthread_create": (errno.EAGAIN,),
    "process_vm_readv": (errno.ENOMEM, errno.EFAULT),
}


# What these processes call; the command itself calls nearly all.
MADE_BY: Final = {
    WORKER: ["mmap", "pread", "pwrite", "lseek", "sendmsg"],
    WATCHDOG: ["connect", "sendmsg", "socketpair"],
}


def run(
    there: Site, what: str, environment: dict[str, str] | None = None, **options: Any
) -> command.Done:
    """Runs the command; what it did is right, and what it said is one line."""
    before = ownerless()
    env = {**command.environment(), **(environment or {})}
    done = command.pagecheck(*VICTIMS[what].arguments(there), env=env, **options)
    try:
        VICTIMS[what].judge(there, done, False)
        assert "Traceback" not in done.stderr
        assert "a bug in pagecheck" not in done.stderr
        if done.returncode > 1:
            assert done.stderr.startswith("pagecheck: ")
            assert done.stderr.count("\n") == 1
        wait_for(lambda: not command.tagged_processes(), "no process left")
        if "OpenBLAS" in done.stderr:  # numpy's library, out of memory, ends the process as it is
            sweep(0)
        holds_within(3, lambda: not ownerless() - before)
        assert not ownerless() - before
    except BaseException as error:
        error.add_note(f"{what}: {done.returncode}: {done.stderr}")
        raise
    finally:
        there.clear()
    return done


def succeeds(done: command.Done, what: str) -> None:
    assert done.returncode == (5 if what == "verify-damaged" else 0), done.stderr


@pytest.mark.parametrize("what", VICTIMS)
def test_every_call_is_interrupted_and_the_time_of_day_jumps(there: Site, what: str) -> None:
    """By a signal of the host program's every 0.7 ms, in each process: EINTR is no error. The time
    jumps by ten years, ahead and back, from one look to the next."""
    succeeds(run(there, what, preloaded(alarm_us=ALARM_US, step_s=YEARS_S)), what)


LIMITS: Final = {
    resource.RLIMIT_NOFILE: (7, 40),  # Python itself needs some of it
    resource.RLIMIT_AS: (60 << 20, 500 << 20),
    resource.RLIMIT_FSIZE: (0, 8 << 20),
}


def test_a_limit_of_the_process(there: Site, budget: Budget) -> None:
    """Whichever it is, wherever it is met."""
    for seed in budget.seeds(6):
        dice = random.Random(seed)
        what = dice.choice(list(VICTIMS))
        which, (least, most) = dice.choice(list(LIMITS.items()))
        value = dice.randrange(least, most)
        try:
            done = run(there, what, preexec_fn=command.limited(which, value))
            if which == resource.RLIMIT_NOFILE:
                assert done.returncode in ((0, 4), (4, 5))[what == "verify-damaged"], done.stderr
        except BaseException as error:
            error.add_note(f"--seed {seed} --worlds 1: limit {which} is {value}")
            raise


def test_a_call_that_fails(there: Site, tmp_path: Path, budget: Budget) -> None:
    """Any one, of any process, with what the kernel may answer."""
    for seed in budget.seeds(6):
        dice = random.Random(seed)
        what = dice.choice(list(VICTIMS))
        who = dice.choice([COMMAND, COMMAND, WORKER, WATCHDOG])
        call = dice.choice(MADE_BY.get(who, list(ERRORS)))
        at = int(2 ** dice.uniform(0, 3)) - 1
        fault = Fault(tmp_path / "fault", who, at, -dice.choice(ERRORS[call]), call=call)
        try:
            run(there, what, fault.environment())
        except BaseException as error:
            error.add_note(f"--seed {seed} --worlds 1: {fault}, {fault.happened()}")
            raise
