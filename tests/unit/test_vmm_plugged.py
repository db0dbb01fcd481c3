"""Memory devices before and after, and the lines about them."""

from __future__ import annotations

from typing import Any

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm.find.plugged import changes, plugged


class Devices:
    """In place of a monitor."""

    name = "qmp:x"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def execute(self, command: str) -> Any:
        assert command == "query-memory-devices"
        return self._answer


def found(answer: Any) -> dict[str, int]:
    return plugged(Devices(answer))  # type: ignore[arg-type]


def test_what_is_plugged() -> None:
    dimm = {"type": "dimm", "data": {"id": "dimm1", "memdev": "/objects/mem1", "size": 4096}}
    nameless = {"type": "dimm", "data": {"memdev": "/objects/mem2", "size": 8192}}
    other = {"type": "of a later QEMU", "data": {}}
    assert found([dimm, nameless, other]) == {"dimm1": 4096, "mem2": 8192}
    assert found([]) == {}


@pytest.mark.parametrize(
    "answer",
    [None, {}, [5], [{}], [{"data": {"id": 5, "size": 1}}], [{"data": {"id": "a", "size": -1}}]],
)
def test_an_answer_of_the_wrong_shape(answer: Any) -> None:
    with pytest.raises(PeerError, match="answer to query-memory-devices"):
        found(answer)


def test_changes() -> None:
    assert changes({}, {}) == []
    assert changes({"a": 1}, {"a": 1}) == []
    came, grew, went = changes({"b": 1, "c": 3}, {"a": 7, "b": 2})
    assert came.startswith("memory device 'a' was plugged (7 bytes) meanwhile: the answer is for")
    assert grew.startswith("memory device 'b' changed from 1 to 2 bytes meanwhile")
    assert went.startswith("memory device 'c' was unplugged meanwhile")
