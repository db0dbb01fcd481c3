"""A self-test finds what is made wrong here, and says what repeats it."""

from __future__ import annotations

import errno
import os
from typing import Any

import numpy as np
import pytest

from pagecheck import Answer, Coordinator
from pagecheck.errors import InternalError, ResourceError, SourceError, UsageError
from pagecheck.native import _native
from pagecheck.selftest import examine, host, round_trip
from pagecheck.selftest import selftest as module
from pagecheck.selftest.places import Place
from pagecheck.selftest.report import SelftestReport
from pagecheck.selftest.run import Hung
from pagecheck.selftest.selftest import selftest
from pagecheck.selftest.trial import run_world
from pagecheck.selftest.world import World
from pagecheck.selftest.wrong import Wrong

LINE = "seed=5 place=memfd pages=300 hole_share=0.2 threads=2 checks=3 channels=2"
PLACES = {"memfd": Place("memfd", "memfd"), "shm": Place("shm", folder="/dev/shm")}

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure is not made simple for long."""
    monkeypatch.setattr(module, "SHRINK_S", 2.0)


@pytest.fixture
def wrong_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check calls its first normal page zero where it has more than 100 pages."""
    check = Coordinator.check

    def checked(self: Coordinator, *arguments: Any, **named: Any) -> Answer:
        answer = check(self, *arguments, **named)
        if len(answer.zero) > 100 and not answer.zero.all():
            zero = answer.zero.copy()
            zero[int(np.argmin(zero))] = True
            answer = answer._replace(zero=zero)
        return answer

    monkeypatch.setattr(Coordinator, "check", checked)


def parts(report: SelftestReport) -> dict[str, Any]:
    return {part.name: part for part in report.parts}


def test_a_wrong_zero_is_found(wrong_zero: None) -> None:
    report = selftest(1, world=LINE)
    (failure,) = report.failures
    assert not report.ok
    assert failure.part == "place memfd"
    assert "zero pages of a check" in failure.message
    assert "is True, and False is right" in failure.message
    assert parts(report)["place memfd"].wrong == 1
    assert failure.repeated
    assert failure.again.startswith("pagecheck selftest --world 'seed=5")
    line = failure.again.split("--world ")[1].strip("'")
    assert len(line) < len(LINE)
    with pytest.raises(Wrong, match="zero pages of a check"):
        run_world(module.parse(line), PLACES)


def test_what_is_right_is_called_right() -> None:
    report = selftest(1, world=LINE)
    assert report.ok
    assert report.worlds == 1
    assert report.answers > 2


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not used for worlds then."""
    zero_pages = _native.kernel_zero_pages

    def one_is_wrong(name: str, memory: Any, page_bytes: int, offsets: Any, out: Any) -> None:
        zero_pages(name, memory, page_bytes, offsets, out)
        if name != "portable" and page_bytes == 8192:
            out[0] |= np.uint64(1 << 40)

    monkeypatch.setattr(_native, "kernel_zero_pages", one_is_wrong)
    report = selftest(0.001)
    best = _native.kernel_auto()
    assert f"kernel {best}" in [failure.part for failure in report.failures]
    assert "pages of 8192 bytes: page 40 is True" in report.failures[0].message
    assert parts(report)["kernel portable"].wrong == 0


@pytest.mark.parametrize("what", ["descriptors", "names in /dev/shm"])
def test_what_is_left_is_found(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr("pagecheck.selftest.left.END_S", 0.1)
    left: list[Any] = []
    detach = Coordinator.detach

    def leaving(self: Coordinator, block: Any) -> None:
        detach(self, block)
        if what == "descriptors":
            left.append(os.memfd_create("left"))
        else:
            left.append(f"/dev/shm{self.segment_names[0]}-more")
            self.close()
            open(left[-1], "w").close()

    monkeypatch.setattr(Coordinator, "detach", leaving)
    try:
        with pytest.raises(Wrong, match=f"left behind: {what}"):
            run_world(World(pages=9), PLACES)
    finally:
        for each in left:
            os.close(each) if isinstance(each, int) else os.unlink(each)


@pytest.mark.parametrize("onto", [False, True])
def test_a_file_that_was_changed_is_found(monkeypatch: pytest.MonkeyPatch, onto: bool) -> None:
    restore = round_trip.restore

    def one_byte_off(directory: str, ram: str, **how: Any) -> None:
        restore(directory, ram, **how)
        if how.get("onto", False) == onto:
            with open(ram, "r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"\x01", 3 * 4096)

    monkeypatch.setattr(round_trip, "restore", one_byte_off)
    said = "the file that was written over differs" if onto else "the restored file differs"
    with pytest.raises(Wrong, match=said):
        run_world(World(place="shm", source="path", pages=9, saves=True), PLACES)


def test_a_thread_that_hangs_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more is tried in this process, and the world is not made simpler."""
    monkeypatch.setattr("pagecheck.selftest.run.PATIENCE_S", 0.2)
    scan = Coordinator.scan
    monkeypatch.setattr(
        Coordinator, "scan", lambda self, block, **how: (self._stop.wait(30), scan)[1]
    )
    report = selftest(1, world="pages=4")
    (failure,) = report.failures
    assert "has not ended" in failure.message
    assert not failure.repeated


def test_a_thread_that_hangs_beside_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts for more: another world in this process would prove nothing."""
    monkeypatch.setattr("pagecheck.selftest.run.PATIENCE_S", 0.5)

    def failing(*_arguments: object) -> None:
        raise ValueError("the check failed")

    monkeypatch.setattr(Coordinator, "check", failing)
    monkeypatch.setattr(Coordinator, "scan", lambda self, block, **how: self._stop.wait(30))
    with pytest.raises(Hung, match=r"has not ended in 0\.5 s; another one: the check failed"):
        run_world(World(pages=4, threads=1), PLACES)


def test_a_bug_is_no_reason_to_leave_a_place_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise InternalError("the answer has 3 bits")

    monkeypatch.setattr(examine, "run_world", broken)
    report = selftest(1, world="pages=3")
    (failure,) = report.failures
    assert (failure.part, failure.message) == ("place memfd", "the answer has 3 bits")


def test_a_place_where_only_saving_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pagecheck.selftest.trial.round_trip", full)
    place, note = examine.examine(PLACES["shm"])
    assert place is not None
    assert (place.saves, note) == (False, "not saved: No space left on device")


def test_a_file_system_that_failed_is_in_the_report() -> None:
    facts = host.facts([Place("/gone", folder="/nonexistent")])
    assert facts["file_systems"] == {"/gone": {"error": "No such file or directory"}}


def test_a_world_of_a_place_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """That says nothing of pagecheck."""
    monkeypatch.setattr(module, "examine", lambda _place: (None, "cannot be used here: odd"))
    with pytest.raises(ResourceError, match="no world could be tried: cannot be used here: odd"):
        selftest(1, world="pages=3")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"minutes": 0}, "minutes 0: must be more than 0"),
        ({"minutes": float("nan")}, "minutes nan: must be"),
        ({"seed": -1}, "seed -1: must be 0 to"),
        ({"world": "place=moon"}, "place 'moon': is not one of memfd, private, shm, tmp"),
        ({"world": "moon"}, "'moon' is not NAME=VALUE"),
        ({"world": "engine=moon"}, "world 'engine=moon': engine 'moon': not one of"),
    ],
)
def test_invalid_requests(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        selftest(**how)
    assert said in str(caught.value)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(SourceError, match=r"^/nonexistent: cannot be used here: No such file"):
        selftest(0.001, folders=["/nonexistent"])


@pytest.mark.parametrize("more", ["", " place=shm source=path"])
def test_a_shortage_is_not_wrong(monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    """But where nothing could be tried, that is not right either."""

    def short(*_arguments: object, **_named: object) -> None:
        raise ResourceError("/dev/shm is full: none is left")

    monkeypatch.setattr(module, "run_world", short)
    with pytest.raises(ResourceError, match="no world could be tried: /dev/shm is full"):
        selftest(1, world=f"pages=3{more}")
    with pytest.raises(ResourceError, match="no world could be tried"):
        selftest(0.001)
