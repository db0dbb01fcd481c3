"""The process that scans apart, from the side of who started it."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pagecheck import aside
from pagecheck.cli import signals
from pagecheck.errors import EngineError, InternalError, SourceError, StorageStalled

pytestmark = pytest.mark.usefixtures("clean")

OPTIONS: dict[str, Any] = {"engine": "cpu", "wq": (), "channels": 1, "deadline": None}


def run(monkeypatch: pytest.MonkeyPatch, program: str, *, deadline: float | None = None) -> Any:
    """Scans by a program that stands in for the real one; it has `tell` and `options`."""
    stand_in(monkeypatch, program)
    options = {**OPTIONS, "source": "/net/ram", "deadline": deadline}
    return aside.scan("nfs", options, None)


def stand_in(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    boot = (
        "import os, pickle, signal, socket, sys; sys.path.append(sys.argv[1])\n"
        "from pagecheck import aside; s = socket.socket(fileno=int(sys.argv[2]))\n"
        "size = int.from_bytes(aside._exactly(s, 8), 'little')\n"
        "level, options = pickle.loads(aside._exactly(s, size))\n"
        "def tell(*message): s.sendall(aside._packed(message))\n"
    )
    monkeypatch.setattr(aside, "_BOOT", boot + program)


def test_an_error_is_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match=r"^/net/ram: is empty$"):
        run(
            monkeypatch,
            "tell('error', {'class': 'SourceError', 'desc': options['source'] + ': is empty'})",
        )
    with pytest.raises(InternalError, match="what"):
        run(monkeypatch, "tell('error', {'class': 'NoSuchError', 'desc': 'what'})")


def test_one_that_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="hung up, status 3"):
        run(monkeypatch, "os._exit(3)")
    with pytest.raises(EngineError, match="hung up, status -9"):
        run(monkeypatch, "tell('progress', 1, 2); os.kill(os.getpid(), signal.SIGKILL)")


def test_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ignores what it is told is killed."""
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    with pytest.raises(StorageStalled, match=r"/net/ram: undecided: .*\(nfs\) .*\(0\.1 s\)"):
        run(monkeypatch, program, deadline=0.1)


def test_the_deadline_once_the_size_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "from pagecheck.model import RamBlock\n"
        "tell('blocks', [RamBlock('ram', 65536, 4096)]); signal.pause()"
    )
    report = run(monkeypatch, program, deadline=3.0)
    assert report.total.undecided == report.total.pages == 16
    assert (report.source, report.answer) == ("/net/ram", "live")
    assert "(nfs) did not answer" in report.notes[0]


def test_a_save_that_is_interrupted_may_clean_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What it made in QEMU and on the disk takes longer than the end of a scan."""
    program = (
        "def end(*_): os.system('exec true'); os.mkdir(options['directory']); os._exit(143)\n"
        "signal.signal(signal.SIGTERM, end); tell('progress', 1, 2); signal.pause()"
    )

    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    stand_in(monkeypatch, program)
    monkeypatch.setattr(aside, "SOON_S", 0.0)
    options = {"source": "/net/ram", "directory": str(tmp_path / "cleaned")}
    with pytest.raises(KeyboardInterrupt):
        aside.save("nfs", options, interrupt)
    assert (tmp_path / "cleaned").is_dir()


def test_nobody_asks(tmp_path: Path) -> None:
    """Whoever started it is gone before it said what it wants."""
    import socket

    ours, theirs = socket.socketpair()
    ours.close()
    assert aside.serve(os.dup(theirs.fileno()), None, "scan", signals) == 1
    theirs.close()


@pytest.fixture(autouse=True)
def _handlers() -> Any:
    """What `serve` installs is for a process of its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: list[Any] = [signal.getsignal(number) for number in numbers]
    hook: Callable[[Any], Any] = sys.unraisablehook
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    sys.unraisablehook = hook


@pytest.mark.parametrize(
    ("source", "fds"),
    [
        ("fd:7", (7,)),
        ("/proc/self/fd/12", (12,)),
        ("/proc/thread-self/fd/12", (12,)),
        ("/dev/fd/3", (3,)),
        ("/dev/stdin", (0,)),
        ("fd:", ()),
        ("fd:x", ()),
        ("/dev/fd/3/x", ()),
        ("/proc/1/fd/3", ()),
        ("/dev/fd/3\n", ()),
    ],
)
def test_what_is_inherited(source: str, fds: tuple[int, ...]) -> None:
    assert aside._descriptors(source) == fds
