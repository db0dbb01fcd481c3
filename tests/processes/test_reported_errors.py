"""What a worker reports arrives as what it is, not as a bug of ours."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from pagecheck import Coordinator
from pagecheck.child.process import Program
from pagecheck.coordinator import worker
from pagecheck.errors import CLASSES, EngineError, PagecheckError, ResourceError, to_wire

pytestmark = pytest.mark.usefixtures("clean")


def reporting(monkeypatch: pytest.MonkeyPatch, error: Exception) -> pytest.ExceptionInfo[Any]:
    """What becomes of a start whose worker reports the error."""
    message = {"error": to_wire(error)}
    program = Program(
        "from pagecheck.child.wire import Link; "
        "answer = lambda link, message: link.receive(1 << 62) and link.send(message); "
        f"main = lambda fd: answer(Link.inherited(fd), {message!r}) or 4"
    )
    monkeypatch.setattr(worker, "PROGRAM", program)
    with pytest.raises(PagecheckError) as caught:
        Coordinator(1)
    return caught


@pytest.mark.parametrize("kind", CLASSES.values())
def test_errors_of_ours(kind: type[PagecheckError], monkeypatch: pytest.MonkeyPatch) -> None:
    caught = reporting(monkeypatch, kind("what happened"))
    assert caught.type is kind
    assert str(caught.value) == "channel 0: what happened"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EIO, EngineError), (errno.EMFILE, ResourceError), (errno.ENOMEM, ResourceError)],
)
def test_errors_of_the_system(
    number: int, kind: type[PagecheckError], monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = reporting(monkeypatch, OSError(number, os.strerror(number)))
    assert caught.type is kind
    assert "channel 0: worker" in str(caught.value)
    assert "bug" not in str(caught.value)
