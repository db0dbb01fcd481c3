"""Requests to a store, tried again while that may help, and several at once.

Facts: a thread that waits for a socket cannot be interrupted. Decision: such threads are daemons,
which no end of ours waits for, and every wait of theirs is bounded.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

from pagecheck import clock
from pagecheck.errors import SourceError, UsageError
from pagecheck.shortage import no_thread
from pagecheck.survey.stores.patience import Patience, Tries
from pagecheck.survey.stores.troubles import trouble_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Final

    from pagecheck.survey.stores.part import Part
    from pagecheck.survey.stores.store import Store

Question = TypeVar("Question")
Answer = TypeVar("Answer")

STEP_S: Final = 0.1  # how often a waiter looks whether it is to end


def ask(what: str, request: Callable[[], Answer], patience: Patience) -> Answer:
    """Makes a request until it is answered.

    Args:
        what: it is about, for messages.
        request: makes one try; what it raises `trouble_of` understands.

    Raises:
        SourceError: it was not answered, or not as it should.
    """
    tries = Tries(what, patience)
    while True:
        began_s = clock.now_s()
        try:
            return request()
        except Exception as error:
            trouble = trouble_of(error)
            # A listing of many pages that fails late has brought some.
            progress = clock.now_s() - began_s > patience.quiet_s
            pause_s = tries.pause_s(trouble, progress=progress)
            if pause_s is None:
                raise SourceError(f"{what}: {tries.text(trouble)}") from error
        clock.sleep_s(pause_s)


def read(
    store: Store, part: Part, what: str, patience: Patience, is_ended: Callable[[], bool]
) -> None:
    """Reads a part whole; what broke off is continued.

    Args:
        is_ended: whether nobody wants it any more; asked several times a second.

    Raises:
        SourceError: it did not all arrive.
        UsageError: nobody wants it any more.
    """
    tries = Tries(what, patience)
    part.is_ended = is_ended
    while part.left:
        had = part.got
        try:
            store.fetch(part, tries.left_s)
            part.require_all()
        except Exception as error:
            if is_ended():
                raise stopped() from None
            trouble = trouble_of(error)
            pause_s = tries.pause_s(trouble, progress=part.got > had)
            if pause_s is None:
                where = _where(part) if trouble.passing else ""
                raise SourceError(f"{what}: {where}{tries.text(trouble)}") from error
            _rest(pause_s, is_ended)


def _where(part: Part) -> str:
    return f"bytes {part.first:#x} to {part.end:#x} did not come: "


def _rest(seconds: float, is_ended: Callable[[], bool]) -> None:
    until_s = clock.now_s() + seconds
    while (left := until_s - clock.now_s()) > 0:
        if is_ended():
            raise stopped()
        clock.sleep_s(min(left, STEP_S))


def stopped() -> UsageError:
    """What ends what nobody wants any more."""
    return UsageError("the survey was stopped")


def start_thread(work: Callable[[], None]) -> None:
    """Does work on a thread of its own, which must not raise anything.

    Raises:
        ResourceError: no thread can be started.
    """
    try:
        threading.Thread(target=work, name="pagecheck-store", daemon=True).start()
    except RuntimeError as error:
        raise no_thread("a request to a store", error) from error


def several(work: Callable[[Question], Answer], questions: Iterable[Question]) -> list[Answer]:
    """The answers to a few questions, which are asked at once.

    Raises:
        BaseException: what the first that failed raised.
    """
    asked = list(questions)
    answers: queue.SimpleQueue[tuple[int, Answer | None, BaseException | None]]
    answers = queue.SimpleQueue()

    def one(number: int, question: Question) -> None:
        try:
            answers.put((number, work(question), None))
        except BaseException as error:
            answers.put((number, None, error))

    for number, question in enumerate(asked):
        start_thread(lambda number=number, question=question: one(number, question))  # type: ignore[misc]
    found: dict[int, Answer] = {}
    for _ in asked:
        number, answer, error = answers.get()
        if error is not None:
            raise error
        found[number] = answer  # type: ignore[assignment]  # there is no error
    return [found[number] for number in range(len(asked))]
