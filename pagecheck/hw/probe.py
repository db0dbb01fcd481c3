"""A test of one work queue: what the owner of real hardware runs first.

A descriptor of each kind that the engine uses is submitted, and its completion record is shown as
it came back, with a verdict: single comparisons of a zero and of a normal page, a batch, an absent
page, and a queue that is filled up. Only memory of this process is accessed.

Danger: a queue may never answer, and a wedged device blocks whoever closes it. Decision: every wait
has a deadline, and the portal is closed in a thread that may be left behind.

Source: DSA specification 341204-006US, 8.1 to 8.3; Linux drivers/dma/idxd/cdev.c (idxd_cdev_write).
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from pagecheck import clock
from pagecheck.hw import wq
from pagecheck.hw.devices import WorkQueue
from pagecheck.hw.queues import find_queue
from pagecheck.hw.sysfs import printable
from pagecheck.native import Portal

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = 4096
MEMBERS: Final = 8
ANSWER_S: Final = 5.0
CLOSE_S: Final = 5.0
FILL_BYTES: Final = 2 << 20  # some 60 microseconds of a device each
FILL_MOST: Final = 512  # more than any queue has entries

_BATCH, _COMPVAL = 1, 6
_FLAGS: Final = 0x0C  # completion record address valid, request completion record
_DESCRIPTOR: Final = struct.Struct("<IIQQQI28x")
_RECORD: Final = struct.Struct("<BB2xIQI12x")
_STATUS: Final = 0x3F

# Where things lie in the memory, in bytes.
_DESCRIPTORS, _LIST, _RECORDS, _MANY = 0, 2 * PAGE, 4 * PAGE, 32 * PAGE
_PAGES: Final = 64 * PAGE
_ZERO, _NORMAL, _ABSENT = _PAGES, _PAGES + MEMBERS * PAGE, _PAGES + 2 * MEMBERS * PAGE
_FILL: Final = _PAGES + 4 * MEMBERS * PAGE
_BYTES: Final = _FILL + FILL_BYTES
_DIFFERS_AT: Final = 1000  # byte of a normal page


_SUBMIT: Final = {"shared": "enqcmd", "dedicated": "movdir64b", "write": "write"}


class Step(NamedTuple):
    """One thing that was tried.

    Attributes:
        name: what it was.
        ok: whether the queue did what the specification promises.
        said: one line: what came back, and what that means.
        descriptor: the 64 bytes that were submitted, as hex; empty where there is none.
        records: the 32 bytes of each completion record, as hex.
    """

    name: str
    ok: bool
    said: str
    descriptor: str
    records: tuple[str, ...]


class Probe(NamedTuple):
    """What trying one queue gave.

    Attributes:
        queue: as the user names it.
        submit: "enqcmd", "movdir64b" or "write"; None where it could not be opened.
        steps: in order.
    """

    queue: str
    submit: str | None
    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Whether every step was."""
        return all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, object]:
        """As docs/json.md describes it."""
        return {**self._asdict(), "ok": self.ok, "steps": [step._asdict() for step in self.steps]}


def probe(text: str) -> Probe:
    """Tries a work queue.

    Args:
        text: a device node, or `model:...`, as for --wq.

    Raises:
        EngineError: there is no such queue.
        UsageError: the text is invalid.
    """
    named = wq.parse(text)
    memory = mmap.mmap(-1, _BYTES)
    portal = Portal(memory)
    if isinstance(named, wq.Model):
        return _try_model(named, portal, memory)
    queue = find_queue(named, probe=True)
    if queue.unusable is not None:
        return Probe(text, None, (Step("open", False, queue.unusable, "", ()),))
    opened = _open(portal, queue)
    if isinstance(opened, Step):
        return Probe(text, None, (opened,))
    return _tried(text, portal, memory, queue.mode, opened, batches=queue.batches)


def _try_model(model: wq.Model, portal: Portal, memory: mmap.mmap) -> Probe:
    limits = (model.size, model.threshold, model.batch, model.transfer, model.version)
    try:
        more = (model.seed, model.faults, model.delay * 1000, model.engines)
        portal.open_model(model.mode, *limits, *more, bool(model.prs), bool(model.ats))
    except ValueError as error:
        raise wq.refused(model, error) from error
    mode = "dedicated" if model.mode == "dedicated" else "shared"
    batches = model.mode != "write" or model.version >= 2
    return _tried(model.text, portal, memory, mode, _SUBMIT[model.mode], batches=batches)


def _open(portal: Portal, queue: WorkQueue) -> str | Step:
    submit = queue.submit or "write"
    try:
        fd = os.open(queue.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            portal.open_queue(fd, submit)
        finally:
            os.close(fd)
    except OSError as error:
        return Step("open", False, f"{queue.path}: {error.strerror}", "", ())
    return submit


def _tried(
    text: str, portal: Portal, memory: mmap.mmap, mode: str, submit: str, *, batches: bool
) -> Probe:
    trial = _Trial(portal, memory, mode, submit)
    steps = [Step("open", True, f"{mode} queue, submitted to by {submit}", "", ())]
    try:
        steps += trial.steps(batches=batches)
    finally:
        steps.append(_closed(portal))
    return Probe(text, submit, tuple(steps))


def _closed(portal: Portal) -> Step:
    """Closes it in a thread of its own: the kernel waits until the device has released it."""
    thread = threading.Thread(target=portal.close, daemon=True)
    began = clock.now_s()
    thread.start()
    thread.join(CLOSE_S)
    if thread.is_alive():
        said = f"the device has not released this process after {CLOSE_S:.0f} s; see dmesg"
        return Step("close", False, said, "", ())
    return Step("close", True, f"drained in {(clock.now_s() - began) * 1e3:.1f} ms", "", ())


class _Trial:
    """The steps over one open queue."""

    def __init__(self, portal: Portal, memory: mmap.mmap, mode: str, submit: str) -> None:
        self._portal = portal
        self._memory = memory
        self._mode = mode
        self._submit = submit
        memory[_FILL:] = bytes(FILL_BYTES)  # present
        for member in range(MEMBERS):
            memory[_ZERO + member * PAGE] = 0
            memory[_NORMAL + member * PAGE + _DIFFERS_AT] = 1

    def steps(self, *, batches: bool) -> Iterator[Step]:
        """Every step, until one gets no answer: then nothing more is submitted, since a late
        answer would be taken for one to a later step."""
        kinds = [self._zero, self._normal, *([self._batch] if batches else []), self._fault]
        for kind in kinds:
            step = kind()
            yield step
            if not step.ok and not any(int(record[:2], 16) for record in step.records):
                yield Step("stopped", False, "nothing more was submitted", "", ())
                return
        yield self._full()

    def _zero(self) -> Step:
        return self._single("zero page", _ZERO, self._judge_zero)

    def _normal(self) -> Step:
        return self._single("normal page", _NORMAL, self._judge_normal)

    def _fault(self) -> Step:
        # A page that this process never touched: not in its page tables.
        self._memory.madvise(mmap.MADV_DONTNEED, _ABSENT, PAGE)
        return self._single("absent page", _ABSENT, self._judge_fault)

    def _single(self, name: str, at: int, judge: Judge) -> Step:
        self._put(_DESCRIPTORS, _COMPVAL, _RECORDS, at, PAGE)
        shown = self._memory[_DESCRIPTORS : _DESCRIPTORS + 64].hex()
        refused = self._go(_DESCRIPTORS)
        if refused is not None:
            return Step(name, False, refused, shown, ())
        if not self._wait(_RECORDS):
            return Step(name, False, self._no_answer(), shown, (self._hex(_RECORDS),))
        ok, said = judge(*self._record(_RECORDS))
        return Step(name, ok, said, shown, (self._hex(_RECORDS),))

    def _batch(self) -> Step:
        name = f"batch of {MEMBERS}"
        for member in range(MEMBERS):
            page = (_NORMAL if member % 2 else _ZERO) + member * PAGE
            self._put(_LIST + member * 64, _COMPVAL, _RECORDS + (member + 1) * 32, page, PAGE)
        self._put(_DESCRIPTORS, _BATCH, _RECORDS, _LIST, MEMBERS)
        shown = self._memory[_DESCRIPTORS : _DESCRIPTORS + 64].hex()
        refused = self._go(_DESCRIPTORS)
        if refused is not None:
            return Step(name, False, refused, shown, ())
        arrived = self._wait(_RECORDS)
        records = tuple(self._hex(_RECORDS + i * 32) for i in range(MEMBERS + 1))
        if not arrived:
            return Step(name, False, self._no_answer(), shown, records)
        ok, said = self._judge_batch()
        return Step(name, ok, said, shown, records)

    def _full(self) -> Step:
        """Submits more than the queue can hold at once; never to a dedicated queue, which drops
        what does not fit and reports that to the kernel's log only."""
        name = "full queue"
        if self._mode == "dedicated":
            return Step(name, True, "not tried: a dedicated queue drops what does not fit", "", ())
        for i in range(FILL_MOST):
            at = _MANY + i * 64
            self._put(at, _COMPVAL, _RECORDS + (i % 2) * 32, _FILL, FILL_BYTES)
        taken = 0
        try:
            while taken < FILL_MOST:
                more = self._portal.submit(_MANY + taken * 64, 1)
                if more == 0:
                    return Step(name, True, f"took {taken} descriptors, then: full", "", ())
                taken += more
        except OSError as error:
            return Step(name, False, self._reason(error), "", ())
        return Step(
            name, True, f"took all {taken} descriptors: faster than it can be filled", "", ()
        )

    def _put(self, at: int, opcode: int, record: int, source: int, size: int) -> None:
        address = self._portal.address
        self._memory[record : record + 32] = bytes(32)
        self._memory[at : at + 64] = _DESCRIPTOR.pack(
            0, opcode << 24 | _FLAGS, address + record, address + source, 0, size
        )

    def _go(self, at: int) -> str | None:
        """Submits one descriptor, or says why it was not taken."""
        until = clock.now_s() + ANSWER_S
        try:
            while self._portal.submit(at, 1) == 0:
                if clock.now_s() > until:
                    return (
                        f"the queue accepts nothing for {ANSWER_S:.0f} s: full of other users' "
                        "work, or disabled; see its state in sysfs"
                    )
                clock.sleep_s(0.001)
        except OSError as error:
            return self._reason(error)
        return None

    def _reason(self, error: OSError) -> str:
        if error.errno == errno.EINVAL and self._submit == "write":
            return (
                "write(2) is refused (EINVAL): this kernel's driver has no write(2), or takes no "
                "such descriptor by it; map the portal (CAP_SYS_RAWIO), see docs/hardware.md"
            )
        return f"submission is refused: {error.strerror}; see dmesg"

    def _no_answer(self) -> str:
        more = "; see dmesg for a software error (SWERROR) of the device"
        return f"no completion record after {ANSWER_S:.0f} s{more}"

    def _wait(self, record: int) -> bool:
        until = clock.now_s() + ANSWER_S
        while self._memory[record] == 0:
            if clock.now_s() > until:
                return False
            clock.sleep_s(0.0001)
        return True

    def _record(self, at: int) -> tuple[int, int, int, int]:
        """(status, result, bytes completed, fault address) of a record."""
        raw, result, completed, fault, _flags = _RECORD.unpack_from(self._memory, at)
        return raw & _STATUS, result, completed, fault

    def _hex(self, at: int) -> str:
        return self._memory[at : at + 32].hex()

    def _judge_zero(self, status: int, result: int, *_rest: int) -> tuple[bool, str]:
        return (status, result) == (1, 0), f"status {status:#04x}, result {result}: wanted 0x01, 0"

    def _judge_normal(self, status: int, result: int, at: int, *_rest: int) -> tuple[bool, str]:
        ok = (status, result) == (1, 1) and at <= _DIFFERS_AT
        wanted = f"wanted 0x01, 1 and at most {_DIFFERS_AT}"
        return ok, f"status {status:#04x}, result {result}, position {at}: {wanted}"

    def _judge_fault(self, status: int, result: int, done: int, fault: int) -> tuple[bool, str]:
        page = self._portal.address + _ABSENT
        if status == 3:
            right = fault & -PAGE == page
            where = "at its address" if right else f"reported at another address: {fault:#x}"
            return right and result == 0, f"status 0x03 after {done} bytes: a page fault, {where}"
        came = (status, result) == (1, 0)
        why = "no fault: the kernel had the page in place" if came else "wanted 0x03"
        return came, f"status {status:#04x}, result {result}: {why}"

    def _judge_batch(self) -> tuple[bool, str]:
        status, _, completed, _ = self._record(_RECORDS)
        wrong = []
        for member in range(MEMBERS):
            got = self._record(_RECORDS + (member + 1) * 32)[:2]
            if got != (1, member % 2):
                wrong.append(f"member {member}: status {got[0]:#04x}, result {got[1]}")
        said = f"status {status:#04x}, {completed} of {MEMBERS} members"
        if wrong:
            return False, f"{said}; {printable('; '.join(wrong), 300)}"
        return status == 1, f"{said}, each right"


if TYPE_CHECKING:
    from collections.abc import Callable

    Judge = Callable[[int, int, int, int], tuple[bool, str]]
