"""`pagecheck serve`: listens, accepts clients, and ends fast and clean.

In the manner of vhost-user back-ends: it stays in the foreground, fails early, and ends on SIGTERM.
Source: QEMU, docs/interop/vhost-user, "Backend program conventions".
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pagecheck import clock
from pagecheck.errors import AccessError, EngineError, LimitError, PagecheckError
from pagecheck.service.activation import notify
from pagecheck.service.limits import admit
from pagecheck.service.protocol import Connection
from pagecheck.service.session import Session
from pagecheck.shortage import no_thread

if TYPE_CHECKING:
    from pagecheck.service.activation import Listener
    from pagecheck.service.service import Service

DRAIN_S: Final = 1.0  # for commands that run when the service is to end
LEAVE_S: Final = 5.0  # for clients' sessions to release what they have
REFUSE_NS: Final = 100_000_000
SLEEP_MS: Final = 1000
SHORTAGE_S: Final = 0.1

log = logging.getLogger(__name__)


def serve(listener: Listener, service: Service, allowed_uids: frozenset[int]) -> None:
    """Serves until SIGTERM, SIGINT or SIGHUP; then waits for running commands, at most a second.

    Must be called from the main thread.

    Raises:
        EngineError: every worker for checks is lost for good; the service has to be started
            again.
    """
    with _ends_by_signal() as ended:
        notify("READY=1\nSTATUS=serving")
        log.info("serving on %s", listener.text)
        while not (lost := service.coordinator.is_lost):
            if _accept_until(listener, service, allowed_uids, ended):
                break
    notify("STOPPING=1")
    listener.close()
    _drain(service)
    if lost:
        raise EngineError("no channel is left: every one lost its workers; start the service again")


@contextlib.contextmanager
def _ends_by_signal() -> Iterator[int]:
    """A descriptor that becomes readable when a signal asks us to end."""
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def on_signal(_number: int, _frame: object) -> None:
        os.eventfd_write(fd, 1)

    before = {
        number: signal.signal(number, on_signal)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield fd
    finally:
        for number in before:  # a second one must not disturb the end, which is bounded
            signal.signal(number, signal.SIG_IGN)
        os.close(fd)


def _accept_until(
    listener: Listener, service: Service, allowed_uids: frozenset[int], ended: int
) -> bool:
    """Waits for the next client. True: the service is to end."""
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(listener.socket, select.POLLIN)
    ready = {fd for fd, _events in poll.poll(SLEEP_MS)}
    if ended in ready:
        return True
    if ready:
        _accept(listener, service, allowed_uids)
    return False


def _accept(listener: Listener, service: Service, allowed_uids: frozenset[int]) -> None:
    try:
        connected, _address = listener.socket.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return
    except OSError as error:  # no descriptor is left: connected clients are served
        log.warning("cannot accept a client: %s", error.strerror)
        clock.sleep_s(SHORTAGE_S)
        return
    try:
        peer = admit(connected, allowed_uids, service.policy)
        Session(service, connected, peer).start()  # from here on the session closes it
    except (AccessError, LimitError) as error:
        service.counters.add("clients_refused")
        _refuse(connected, error)
    except OSError:  # it left at once
        connected.close()
    except RuntimeError as error:
        log.warning("cannot serve a client: %s", error)
        _refuse(connected, no_thread("this client", error))


def _refuse(connected: socket.socket, error: PagecheckError) -> None:
    """Sends the reason, as far as the client reads, and hangs up."""
    log.info("refused a client: %s", error)
    connection = Connection(connected)
    members = {"error": {"class": type(error).__name__, "desc": str(error)}}
    with contextlib.suppress(PagecheckError):
        connection.send(members, (), clock.now_ns() + REFUSE_NS)
    connection.close()


def _drain(service: Service) -> None:
    """Waits for running commands, then disconnects every client."""
    until = clock.now_s() + DRAIN_S
    while any(each.is_working for each in service.clients.all()) and clock.now_s() < until:
        clock.sleep_s(0.01)
    service.ending.set()
    for client in service.clients.all():
        client.hang_up()
    until = clock.now_s() + LEAVE_S
    for client in service.clients.all():
        client.join(max(0.0, until - clock.now_s()))
