"""One scan of several blocks, and of a VM that is paused: what `run_scan` makes of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pagecheck.coordinator import Block, Coordinator
from pagecheck.coordinator.runner import Part, Request, run_scan
from pagecheck.coordinator.scan import ScanResult
from pagecheck.errors import PeerError, SourceError, UsageError
from pagecheck.model import Pause
from pagecheck.report.report import undecided_block
from pagecheck.shm.ram import adopt

pytestmark = pytest.mark.usefixtures("clean")

PAGE = 4096
HELD = Pause(0.25, stood_still=True, expired=False, stopped_by_us=True)
EXPIRED = HELD._replace(stood_still=False, expired=True)
CONTINUED = HELD._replace(stood_still=False)


class Vm:
    """Stands for a VM that can be paused.

    Attributes:
        calls: what was asked of it, in order.
    """

    text = "qmp:x"

    def __init__(self, pause: Pause = HELD, error: Exception | None = None) -> None:
        """`resume` gives the pause, or raises the error."""
        self.calls: list[object] = []
        self._pause = pause
        self._error = error

    def pause(self, max_seconds: float) -> None:
        self.calls.append(max_seconds)

    def why_moved(self) -> str | None:
        return None

    def resume(self, *, leave_stopped: bool = False) -> Pause:
        self.calls.append("leave" if leave_stopped else "resume")
        if self._error is not None:
            raise self._error
        return self._pause

    def doubt(self) -> str | None:
        self.calls.append("doubt")
        return None

    def changes(self) -> list[str]:
        return ["dimm1 was plugged"]


def attach(coordinator: Coordinator, pages: int, name: str = "ram") -> Block:
    fd = os.memfd_create(name)
    os.truncate(fd, pages * PAGE)
    os.pwrite(fd, b"x", 0)
    block = coordinator.attach(adopt(fd, name, name))
    os.close(fd)
    return block


class Scanner:
    """Stands for a coordinator: tells of its progress page by page."""

    engine = "none"
    kernel = None
    channels = 0

    def scan_block(self, block: Block, *, progress: Any, **_options: Any) -> ScanResult:
        for page in range(block.ram.pages):
            progress((page + 1) * PAGE, block.ram.size)
        return ScanResult(undecided_block(block.ram), 0, ())


def test_progress_is_of_all_blocks() -> None:
    seen: list[tuple[int, int]] = []
    with Coordinator(engine="none") as coordinator:
        parts = [Part(attach(coordinator, pages)) for pages in (10, 100, 10)]
        scanner: Any = Scanner()
        run_scan(scanner, parts, Request("x"), progress=lambda *each: seen.append(each))
    assert seen == [(page * PAGE, 120 * PAGE) for page in range(1, 121)]


def test_a_vm_that_was_held_gives_an_exact_answer() -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm()
        parts = [Part(attach(coordinator, 16), vm)]
        report = run_scan(coordinator, parts, Request("qmp:x", max_pause=3.0), vm)
        assert vm.calls == [3.0, "resume", "doubt"], "it runs before it is asked anything"
        assert (report.answer, report.why_live, report.pause) == ("paused", None, HELD)
        assert report.notes == ("dimm1 was plugged",)


@pytest.mark.parametrize(
    ("pause", "why"),
    [
        (EXPIRED, "the VM was paused for 3 s, the most that was allowed, and ran on before"),
        (CONTINUED, "the VM was continued or reset by somebody else, and ran on before"),
    ],
)
def test_why_the_pause_ended_is_why_the_answer_is_live(pause: Pause, why: str) -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm(pause)
        parts = [Part(attach(coordinator, 16), vm)]
        report = run_scan(coordinator, parts, Request("qmp:x", max_pause=3.0), vm)
        assert (report.answer, report.pause) == ("live", pause)
        assert report.why_live == f"{why} the end"
        assert f"{why} the end: the answer is a hint" in report.notes


def test_a_vm_that_ran_on_is_not_left_stopped() -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm(EXPIRED)
        parts = [Part(attach(coordinator, 16), vm)]
        request = Request("qmp:x", max_pause=3.0, leave_stopped=True)
        with pytest.raises(
            SourceError, match=r"^qmp:x: the VM was paused for 3 s.*not left stopped"
        ):
            run_scan(coordinator, parts, request, vm)
        assert vm.calls == [3.0, "leave"]


def test_after_an_error_it_runs_and_the_error_is_what_is_raised() -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm(error=PeerError("QEMU ended"))
        block = attach(coordinator, 16)
        coordinator.detach(block)
        request = Request("qmp:x", max_pause=3.0, leave_stopped=True)
        with pytest.raises(UsageError, match="is detached"):
            run_scan(coordinator, [Part(block, vm)], request, vm)
        assert vm.calls == [3.0, "resume"]


def test_a_vm_that_cannot_be_continued_is_an_error() -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm(error=PeerError("QEMU ended"))
        with pytest.raises(PeerError, match="QEMU ended"):
            run_scan(coordinator, [Part(attach(coordinator, 16), vm)], Request("qmp:x"), vm)


@pytest.mark.parametrize("deadline", [0, -1, float("nan")])
def test_a_deadline_that_is_no_time_is_refused(deadline: float) -> None:
    with Coordinator(1, "cpu") as coordinator:
        vm = Vm()
        parts = [Part(attach(coordinator, 16), vm)]
        with pytest.raises(UsageError, match="must be more than 0 seconds"):
            run_scan(coordinator, parts, Request("qmp:x", deadline=deadline), vm)
        assert vm.calls == [], "nothing is stopped for it"
