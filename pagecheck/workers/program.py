"""The worker's program: opens its ring, tests its engine, then serves until its coordinator is
gone. Errors are reported over the socket as a line of JSON."""

from __future__ import annotations

import os

from pagecheck import clock
from pagecheck.child.signals import release_signals
from pagecheck.child.wire import Closed, Link
from pagecheck.errors import EngineError, InternalError, PagecheckError, ResourceError, to_wire
from pagecheck.hw.cpu import choose_kernel
from pagecheck.hw.dsa import DsaEngine
from pagecheck.native import Worker

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Any, Final

POLL_NS: Final = 1_000_000_000  # an idle worker checks for its coordinator this often


def main(fd: int) -> int:
    """Runs the worker on the inherited end of its socket pair.

    Returns:
        The process's exit status.
    """
    release_signals()
    link = Link.inherited(fd)
    try:
        worker, engine = start(link)
        try:
            serve(link, worker, engine)
        finally:
            engine.stop()
    except Closed:
        return 0
    except Exception as error:
        reported = _known(error)
        _report(link, reported)
        if not isinstance(reported, (PagecheckError, OSError)):
            raise  # its traceback is for whoever mends it
        return reported.exit_code if isinstance(reported, PagecheckError) else EngineError.exit_code
    return 0


def _report(link: Link, error: Exception) -> None:
    try:
        link.send({"error": to_wire(error)})
    except (Closed, OSError):
        return  # nobody is left to report to


def _known(error: Exception) -> Exception:
    """The error as it is reported: a shortage is a ResourceError."""
    if isinstance(error, PagecheckError):
        return error
    from pagecheck.shortage import explain  # not needed by a worker that works

    why = explain(error)
    return error if why is None else ResourceError(why)


def start(link: Link) -> tuple[Worker, DsaEngine]:
    """Waits for the `open` message and does what it says.

    Raises:
        EngineError: the kernel or the engine cannot run here.
    """
    while (received := link.receive(clock.now_ns() + POLL_NS)) is None:
        pass  # our parent may be stopped; its end would be the end of file
    message, fds = received
    settings = message["open"]
    if settings["nice"]:
        be_nice(settings["nice"])
    kernel = choose_kernel(settings["kernel"])
    worker = Worker(fds[0], fds[1], kernel, settings["spin_ns"])
    for fd in fds:
        os.close(fd)
    engine = DsaEngine(worker, settings["device_ns"])
    number = settings["queue"] + settings["channel"]
    picked = engine.open(settings["engine"], settings["wq"], number, fallback=settings["fallback"])
    if settings["writer"] is not None:
        from pagecheck.workers.writer import write_as  # not needed by a worker of our own files

        write_as(*settings["writer"])
    link.send({"ready": {"pid": os.getpid(), "kernel": kernel, **picked.to_json()}})
    return worker, engine


def be_nice(increment: int) -> None:
    """Changes this process's nice value.

    Raises:
        EngineError: a higher priority was asked for and is not permitted.
    """
    try:
        os.nice(increment)
    except PermissionError as error:
        raise EngineError(f"nice {increment}: not permitted to this user") from error


def serve(link: Link, worker: Worker, engine: DsaEngine) -> None:
    """Serves batches in C, supervises the queue and answers messages here, until the coordinator
    closes the connection.

    Raises:
        Closed: it did.
    """
    while True:
        wanted_ns = engine.tend()
        worker.serve(min(clock.now_ns() + POLL_NS, wanted_ns))
        while (received := link.receive(0)) is not None:
            answer(link, worker, *received)


def answer(link: Link, worker: Worker, message: dict[str, Any], fds: list[int]) -> None:
    """Does what one message asks for and replies."""
    if "attach" in message:
        block = message["attach"]
        add = attach_process if "pid" in block else attach
        sink_fds = [fds.pop(), fds.pop()] if "sink" in block else []
        mapped = add(worker, block, fds)
        if sink_fds:
            copy_to(worker, block, sink_fds)
        link.send({"attached": {"block": block["block"], "mapped": mapped}})
    elif "detach" in message:
        worker.detach(message["detach"]["block"])
        link.send({"detached": {}})
    else:
        raise InternalError(f"unknown message {message!r}")


def copy_to(worker: Worker, block: dict[str, Any], fds: list[int]) -> None:
    """Gives a block that was attached its sink.

    Args:
        fds: what the workers share of the sink, and its file.
    """
    state_fd, fd = fds
    sink = block["sink"]
    try:
        how = sink["start"], sink["update"], sink["holes"]
        worker.copy_to(block["block"], fd, state_fd, *how)
    finally:
        for each in fds:
            os.close(each)


def attach_process(worker: Worker, block: dict[str, Any], fds: list[int]) -> bool:
    """Attaches a block of another process's memory.

    Args:
        fds: the process's pagemap and memory and, where there is one, the file that it maps
            privately.

    Returns:
        False: it is never mapped.
    """
    try:
        worker.attach_process(
            block["block"],
            fds[0],
            fds[1],
            fds[2] if len(fds) > 2 else -1,
            block["pid"],
            block["base"],
            block["size"],
            block["page_size"],
            block["read_swapped"],
            bytes.fromhex(block["pieces"]),
        )
    finally:
        for fd in fds:
            os.close(fd)
    return False


def attach(worker: Worker, block: dict[str, Any], fds: list[int]) -> bool:
    """Attaches a block; where the mapping fails it is read instead.

    Returns:
        Whether it was mapped.
    """
    mapped = bool(block["map"])
    (fd,) = fds
    try:
        _attach(worker, block, fd, mapped=mapped)
    except OSError:
        if not mapped:
            raise
        mapped = False
        _attach(worker, block, fd, mapped=False)
    finally:
        os.close(fd)
    return mapped


def _attach(worker: Worker, block: dict[str, Any], fd: int, *, mapped: bool) -> None:
    worker.attach(
        block["block"],
        fd,
        block["start"],
        block["size"],
        block["page_size"],
        block["flags"],
        block["dense_bytes"],
        mapped,
    )
