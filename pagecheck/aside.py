"""A scan, or a save, in a separate process, for files whose file system may never answer.

Facts: a request to a FUSE file system that its program has read and not answered cannot be
interrupted, not even by SIGKILL; neither can the end of a process that has such a file open, since
closing is a request too; and a process does not end before its last thread.
Danger: a process that opens, reads or closes such a file may be impossible to end, and a reader of
a pipe that it holds open, such as our stderr, would wait for it.
Decision: this process never accesses the file. A child scans, reports its results before it closes
anything, and is abandoned where it does not end.

Source: request_wait_answer() in fs/fuse/dev.c and fuse_flush() in fs/fuse/file.c.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pagecheck import clock
from pagecheck.child.process import leave_behind, reap_left_behind
from pagecheck.child.wire import above_standard
from pagecheck.errors import (
    EngineError,
    SourceError,
    StorageStalled,
    from_wire,
    to_wire,
)
from pagecheck.logs import Log
from pagecheck.shortage import no_process

if TYPE_CHECKING:
    from pagecheck.model import RamBlock
    from pagecheck.report.report import BlockReport, Report

GRACE_S: Final = 1.0  # after the deadline, to report what was found until then
SOON_S: Final = 0.2  # the same where not even the file's size is known yet
END_S: Final = 1.0  # to clean up
SAVE_END_S: Final = 2.0  # the same of a save: the VM, its overlays, a directory with its RAM

_STANDARD: Final = {"/dev/stdin": "fd:0", "/dev/stdout": "fd:1", "/dev/stderr": "fd:2"}
_BOOT: Final = (
    "import os, sys; sys.path.append(sys.argv[1]); from importlib import import_module; "
    "from pagecheck import aside; from pagecheck.cli import signals; "
    "os._exit(aside.serve(int(sys.argv[2]), import_module(sys.argv[3]), sys.argv[4], signals))"
)

log = Log(__name__)


def _descriptors(source: str) -> tuple[int, ...]:
    """The descriptors that the child must inherit for the source's name to be valid there."""
    source = _STANDARD.get(source, source)
    named = re.fullmatch(r"(?:fd:|/proc/(?:thread-)?self/fd/|/dev/fd/)([0-9]{1,9})", source)
    return (int(named[1]),) if named else ()


def scan(kind: str, options: dict[str, Any], progress: Callable[[int, int], None] | None) -> Report:
    """`pagecheck.scan` in a separate process.

    Args:
        kind: of the file system that may stall.
        options: the arguments of `pagecheck.scan` but `progress`.

    Raises:
        StorageStalled: the deadline passed before the size of the file was known.
        PagecheckError: as `pagecheck.scan`.
    """
    started = clock.now_s()
    deadline = options["deadline"]
    until = None if deadline is None else started + deadline + SOON_S
    shown = _Shown(progress)
    child = Child("pagecheck.oneshot", "scan", options)
    blocks: list[RamBlock] = []
    answered = False
    try:
        while True:
            message = child.receive(until, shown.again)
            if message is None:
                return _undecided(kind, options, blocks, clock.now_s() - started)
            what, *rest = message
            if what == "progress":
                shown.show(*rest)
            elif what == "log":
                log.log(*rest)
            elif what == "blocks":
                blocks = rest[0]
                until = None if deadline is None else started + deadline + GRACE_S
            elif what == "report":
                answered = True
                return _restored(rest[0])
            elif what == "error":
                answered = True
                raise from_wire(rest[0])
    finally:
        child.end(answered=answered, clean_up_s=SOON_S)


def save(kind: str, options: dict[str, Any], progress: Callable[[int, int], None] | None) -> Any:
    """`pagecheck.save` in a separate process.

    Args:
        kind: of the file system that may stall.
        options: the arguments of `pagecheck.save` but `progress`.

    Raises:
        StorageStalled: the longest pause passed, and the file system did not answer.
        PagecheckError: as `pagecheck.save`.
    """
    shown = _Shown(progress)
    child = Child("pagecheck.snapshot.save", "save", options)
    answered = False
    until = None
    try:
        while True:
            message = child.receive(until, shown.again)
            if message is None:
                raise StorageStalled(
                    f"{options['directory']}: the file system ({kind}) did not answer while the VM "
                    "was stopped; the VM runs on, and nothing was saved"
                )
            what, *rest = message
            if what == "progress":
                shown.show(*rest)
            elif what == "log":
                log.log(*rest)
            elif what == "paused":  # with the seconds that are left, or None
                until = None if rest[0] is None else clock.now_s() + rest[0] + GRACE_S
            elif what == "report":
                answered = True
                return rest[0]
            elif what == "error":
                answered = True
                raise from_wire(rest[0])
    finally:
        if child.end(answered=answered, clean_up_s=SAVE_END_S):
            log.warning(
                "%s: a process waits for its file system (%s), and is left behind",
                options["directory"],
                kind,
            )


class _Shown:
    """How far the child is, which is told again while it says nothing: who is told may want to end
    it, and a terminal shows that time passes."""

    def __init__(self, progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress
        self._last: tuple[int, int] | None = None

    def show(self, done: int, total: int) -> None:
        self._last = (done, total)
        self.again()

    def again(self) -> None:
        if self._progress is not None and self._last is not None:
            self._progress(*self._last)


class Child:
    """The child that works in our place."""

    def __init__(self, module: str, function: str, options: dict[str, Any]) -> None:
        """Starts it.

        Args:
            module: where the function is; its `listener` is set.
            function: what is called with the options, and with `progress`.
        """
        if not sys.executable:
            raise EngineError(f"cannot {function} in a separate process: sys.executable is not set")
        reap_left_behind()
        self._function = function
        self._text = os.fspath(options["source"])
        self._buffer = bytearray()
        self._socket, end = socket.socketpair()
        theirs = socket.socket(fileno=above_standard(end.detach()))
        inherited = _descriptors(self._text)
        home = os.path.abspath(f"{__file__}/../..")
        words = [home, str(theirs.fileno()), module, function]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOT, *words],
                    stdin=None if 0 in inherited else subprocess.DEVNULL,
                    stdout=None if 1 in inherited else subprocess.DEVNULL,
                    stderr=None if 2 in inherited or _debugging() else subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *inherited),
                    start_new_session=True,
                )
            level = logging.getLogger().getEffectiveLevel()
            with contextlib.suppress(ConnectionError):  # it was killed, as `receive` tells
                self._socket.sendall(_packed((level, options)))
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError):
                what = f"{self._text}: cannot start a process that {function}s it"
                raise no_process(what, error, "vfork, execve, pipe2 or setsid") from error
            raise

    def receive(self, until: float | None, watch: Callable[[], None] | None = None) -> Any:
        """The next message; None once that time has passed.

        Args:
            watch: called now and then while nothing comes.

        Raises:
            EngineError: it ended without an answer.
        """
        while True:
            size = int.from_bytes(self._buffer[:8], "little")
            if len(self._buffer) >= 8 + size > 8:
                message = pickle.loads(self._buffer[8 : 8 + size])  # our own child's
                del self._buffer[: 8 + size]
                return message
            left = clock.SLICE_S if until is None else min(until - clock.now_s(), clock.SLICE_S)
            if left <= 0:
                return None
            self._socket.settimeout(left)
            try:
                piece = self._socket.recv(1 << 20)
            except TimeoutError:
                if watch is not None:
                    watch()
                continue
            except ConnectionError:  # it was killed before it read the request
                piece = b""
            if not piece:
                ended = f", status {self._process.returncode}" if self._ended(END_S) else ""
                raise EngineError(
                    f"{self._text}: the process that {self._function}s it hung up{ended}"
                )
            self._buffer += piece

    def end(self, *, answered: bool, clean_up_s: float) -> bool:
        """Waits briefly for its end, and abandons it where it does not end.

        Args:
            answered: it only has to clean up; else it is terminated.
            clean_up_s: seconds that it has for that once it is terminated.

        Returns:
            Whether it was abandoned.
        """
        self._socket.close()
        if answered and self._ended(END_S):
            return False
        if not answered:
            self._process.terminate()
            if self._ended(clean_up_s):
                return False
            self._process.kill()
        if self._ended(SOON_S):
            return False
        log.info("process %d waits for its file system and is abandoned", self._process.pid)
        leave_behind(self._process)
        return True

    def _ended(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True


def _undecided(
    kind: str, options: dict[str, Any], blocks: list[RamBlock], seconds: float
) -> Report:
    """The deadline passed without a report."""
    text = os.fspath(options["source"])
    if not blocks:
        raise StorageStalled(
            f"{text}: undecided: the file system ({kind}) did not answer before the deadline "
            f"({options['deadline']:g} s)"
        )
    from pagecheck.report.report import undecided_report

    why = f"{text}: the file system ({kind}) did not answer before the deadline"
    channels = options["channels"] or len(options["wq"]) or 1
    notes = [f"{why}: every page is undecided"]
    return undecided_report(text, blocks, options["engine"], channels, seconds, notes)


def _packed(message: Any) -> bytes:
    body = pickle.dumps(message)
    return len(body).to_bytes(8, "little") + body


def _plain(report: Any) -> Any:
    """A scan's report with bitmaps that can be pickled; a save's has none."""
    from pagecheck.report.report import Report

    if not isinstance(report, Report):
        return report
    return report.with_blocks(tuple(_with_words(block, bytes) for block in report.blocks))


def _restored(report: Report) -> Report:
    return report.with_blocks(tuple(_with_words(block, memoryview) for block in report.blocks))


def _with_words(block: BlockReport, make: Callable[[Any], Any]) -> BlockReport:
    bitmaps = ("zero", "normal", "unchanged", "hole")
    given = {name: getattr(block, name) for name in bitmaps}
    made: dict[str, Any] = {
        name: None if words is None else make(words) for name, words in given.items()
    }
    return block._replace(
        **made,
        files=dict(block.files),
    )


def serve(fd: int, module: Any, function: str, signals: Any) -> int:
    """The child's program.

    Args:
        fd: its end of the socket.
        module: what works; it is not imported here, since it imports this one.
        function: of the module.
        signals: the module that turns a signal into an exception.

    Returns:
        The exit code.
    """
    signals.install()
    with socket.socket(fileno=fd) as connected:
        size = int.from_bytes(_exactly(connected, 8), "little")
        request = _exactly(connected, size)
        if not request:
            return 1
        level, options = pickle.loads(request)  # our parent's

        one_at_a_time = threading.Lock()

        def send(*message: Any) -> None:
            with one_at_a_time:
                connected.sendall(_packed(message))

        logging.basicConfig(level=level, handlers=[_SendingHandler(send)])

        sent = set()

        def listener(what: str, value: Any) -> None:
            sent.add(what)
            if what == "error":
                _send_error(send, value)
            else:
                send(what, _plain(value) if what == "report" else value)

        module.listener = listener
        try:
            report = getattr(module, function)(
                **options, progress=lambda done, total: send("progress", done, total)
            )
            if "report" not in sent:
                listener("report", report)
        except signals.Terminated as error:
            return int(error.exit_code)
        except BrokenPipeError:  # the parent is gone
            return 1
        except OSError as error:
            text = os.fspath(options["source"])
            known = SourceError(f"{text}: {error.strerror or error}")
            _send_error(send, known)
        except Exception as error:
            if _debugging():
                raise
            if "error" not in sent:
                _send_error(send, error)
        return 0


class _SendingHandler(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._send("log", record.levelno, "%s", self.format(record))


def _debugging() -> bool:
    return bool(os.environ.get("PAGECHECK_DEBUG"))


def _send_error(send: Callable[..., None], error: Exception) -> None:
    with contextlib.suppress(OSError):
        send("error", to_wire(error))


def _exactly(connected: socket.socket, size: int) -> bytes:
    """That many bytes, or fewer where the peer is gone."""
    got = bytearray()
    while len(got) < size and (piece := connected.recv(size - len(got))):
        got += piece
    return bytes(got)
