"""A VM that is stopped for a save: it runs again; why what was copied does not count is told."""

import pytest

from pagecheck.errors import OutputError, SourceError, UsageError
from pagecheck.model import Pause
from pagecheck.snapshot.stopped import Stopped
from tests.support.clock import MovedClock


class FakeVm:
    text = "qmp:/run/vm"

    def __init__(self, pause: Pause, moved: str | None = None) -> None:
        self.calls: list[str] = []
        self._pause = pause
        self._moved = moved

    def pause(self, max_seconds: float) -> None:
        self.calls.append(f"pause {max_seconds:g}")

    def resume(self) -> Pause:
        self.calls.append("resume")
        return self._pause

    def quit(self) -> Pause:
        self.calls.append("quit")
        return self._pause

    def why_moved(self) -> str | None:
        return self._moved


STILL = Pause(0.1, True, False, True)
EXPIRED = Pause(5.0, False, True, True)


def test_it_runs_after_the_block_and_after_its_end() -> None:
    vm = FakeVm(STILL)
    with Stopped(vm, 5):
        assert vm.calls == ["pause 5"]
    with Stopped(vm, 5) as stopped:
        stopped.end()
    assert vm.calls == ["pause 5", "resume"] * 2
    with Stopped(vm, 5) as stopped:
        assert stopped.quit("snap") == STILL
    assert vm.calls[-1] == "quit"


@pytest.mark.parametrize(
    ("pause", "moved", "why"),
    [
        (EXPIRED, None, r"paused for 5 s, the most that was allowed.*nothing was saved"),
        (EXPIRED, "a device wrote", "a device wrote; nothing was saved"),
        (Pause(1, False, False, True), None, "continued or reset by somebody else"),
        (Pause(0, False, False, False), None, r"was not running before, and is suspended"),
    ],
)
def test_what_was_copied_does_not_count(pause: Pause, moved: str | None, why: str) -> None:
    vm = FakeVm(pause, moved)
    with pytest.raises(SourceError, match=why), Stopped(vm, 5):
        pass
    with pytest.raises(SourceError, match=r"was not ended, since .*; snap is complete"):
        Stopped(vm, 5).quit("snap")
    assert vm.calls == ["pause 5", "resume", "quit"]


def test_the_first_error_counts_and_the_vm_runs(moved_clock: MovedClock) -> None:
    vm = FakeVm(STILL)
    with pytest.raises(OutputError, match="full"), Stopped(vm, 5):
        raise OutputError("full")
    with pytest.raises(KeyboardInterrupt), Stopped(vm, 5):
        raise KeyboardInterrupt
    with pytest.raises(SourceError, match="pages are missing"), Stopped(vm, 5):
        raise SourceError("pages are missing")
    assert vm.calls == ["pause 5", "resume"] * 3
    with pytest.raises(SourceError, match="paused for 5 s"), Stopped(vm, 5):
        raise _late(moved_clock)


@pytest.mark.parametrize("done", [False, True])
def test_a_signal_while_it_is_continued(done: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it came before that or after it: the VM runs, and nothing is said of it."""
    vm = FakeVm(STILL)
    answers = [KeyboardInterrupt(), UsageError("is not paused") if done else STILL]

    def resume() -> Pause:
        vm.calls.append("resume")
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    vm.resume = resume  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), Stopped(vm, 5) as stopped:
        stopped.end()
    assert vm.calls == ["pause 5", "resume", "resume"]
    assert not caplog.records


def _late(moved_clock: MovedClock) -> SourceError:
    moved_clock.sleep_s(6)
    return SourceError("pages are missing")
