"""What the schema refuses the service refuses: wrong arguments, made from the schema itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.service.test_schema import COMMANDS, DEFS, validator
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient

GOOD: dict[str, dict[str, Any]] = {
    "attach": {},
    "check": {"block": 0},
    "close-channel": {"channel": 0},
    "detach": {"block": 0},
    "open-channel": {},
    "punch": {"block": 0},
    "query-blocks": {},
    "query-stats": {},
    "save": {"blocks": [0]},
}
REGION = {"guest_phys_addr": 0, "memory_size": 4096, "mmap_offset": 0}
OF_TYPES: dict[str, Any] = {
    "integer": 7,
    "number": 0.5,
    "string": "text",
    "boolean": True,
    "array": [],
    "object": {},
    "null": None,
}


class Case(NamedTuple):
    """Arguments that are wrong, and the member that the refusal has to name (or, after a `|`,
    another one)."""

    command: str
    arguments: Any
    member: str


def wrong_values(member: dict[str, Any]) -> Iterator[Any]:
    """Values beside those that a member's schema allows: of other types, past its bounds."""
    yield from OF_TYPES.values()
    yield from (member[key] - 1 for key in ("minimum",) if key in member)
    yield from (member[key] + 1 for key in ("maximum",) if key in member)
    yield from (member[key] for key in ("exclusiveMinimum", "exclusiveMaximum") if key in member)
    if "exclusiveMinimum" in member:
        yield member["exclusiveMinimum"] - 1
    if "minLength" in member:
        yield ""
    if "maxLength" in member:
        yield "x" * (member["maxLength"] + 1)
    if "enum" in member:
        first = member["enum"][0]
        yield first + 1 if isinstance(first, int) else f"{first}x"
        yield member["enum"][-1] * 2
    if "maxItems" in member:
        yield [{}] * (member["maxItems"] + 1)


def members_of(definition: str) -> Iterator[tuple[str, Any]]:
    """(member, value) for every wrong value of every member of a definition."""
    for name, member in DEFS[definition]["properties"].items():
        for value in wrong_values(member):
            yield name, value


def cases() -> Iterator[Case]:
    """All of them; those that the schema happens to allow are among them."""
    for command in COMMANDS:
        good = GOOD[command]
        definition = DEFS[f"{command}-arguments"]
        yield Case(command, {**good, "no_such_member": 1}, "no_such_member")
        for name in definition.get("required", ()):
            yield Case(command, {k: v for k, v in good.items() if k != name}, name)
        for given in (None, [], "text", 7):
            yield Case(command, given, "arguments")
        if "properties" in definition:
            for name, value in members_of(f"{command}-arguments"):
                base = {} if name == "blocks" else good
                yield Case(command, {**base, name: value}, name if name != "blocks" else "block")
    yield Case("check", {}, "block")
    yield Case("check", {"block": 0, "blocks": [0]}, "block")
    yield Case("check", {"blocks": [0, 0]}, "blocks")
    for value in (*OF_TYPES.values(), -1, 32):
        yield Case("check", {"blocks": [value]}, "block")
    yield from nested("attach", "regions", "region-argument", REGION)
    yield from nested("check", "ranges", "range-argument", {"first": 0, "count": 1})
    yield from nested("check", "ranges", "range-argument", {"gpa": 0, "size": 4096})


def nested(command: str, member: str, definition: str, good: dict[str, int]) -> Iterator[Case]:
    def case(item: Any, name: str) -> Case:
        return Case(command, {**GOOD[command], member: [item]}, name)

    for value in OF_TYPES.values():
        yield case(value, member)
    yield case({**good, "no_such_member": 1}, "no_such_member")
    for name in good:
        if name != "gpa":  # without it a range is one of pages, which lacks them
            yield case({k: v for k, v in good.items() if k != name}, name)
    for name, value in members_of(definition):
        yield case({**good, name: value}, "gpa|size|first" if name == "gpa" else name)


def is_refused_by_schema(case: Case) -> bool:
    request = {"execute": case.command, "arguments": case.arguments}
    return not validator("request").is_valid(request)


REFUSED = [case for case in cases() if is_refused_by_schema(case)]


def spoken(text: str) -> str:
    return text.replace("_", " ")


@pytest.mark.long(but="attach")
@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_are_refused(command: str, client: RawClient, known_ram: KnownRam) -> None:
    region = {"guest_phys_addr": 0, "memory_size": 4096, "mmap_offset": 0}
    client.result("attach", {"name": "ram0", "regions": [region]}, [known_ram.fd])
    mine = [case for case in REFUSED if case.command == command]
    assert len(mine) >= 5
    problems = []
    for case in mine:
        fds = [known_ram.fd] if command == "attach" else []
        client.send({"execute": command, "arguments": case.arguments}, fds)
        message, _fds = client.receive()
        error = message.get("error", {"class": "none", "desc": str(message)})
        said = spoken(error["desc"])
        named = any(spoken(member) in said for member in case.member.split("|"))
        if error["class"] != "UsageError" or not named:
            problems.append((str(case)[:200], error["class"], said[:200]))
    assert problems == []
    assert len(client.result("query-blocks")["blocks"]) == 1


@pytest.mark.long(but="request_0")
@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({}, "execute"),
        ({"arguments": {}}, "execute"),
        ({"execute": None}, "execute"),
        ({"execute": 7}, "execute"),
        ({"execute": ["query-stats"]}, "execute"),
        ({"execute": "QUERY-STATS"}, "execute"),
        ({"execute": "query-stats", "extra": 1}, "execute"),
    ],
)
def test_wrong_requests_are_refused(request_: dict[str, Any], word: str, client: RawClient) -> None:
    assert not validator("request").is_valid(request_)
    client.send(request_)
    error = client.receive()[0]["error"]
    assert error["class"] == "UsageError"
    assert word in error["desc"]
    assert client.result("query-blocks") == {"blocks": []}


def test_no_number_is_taken_that_json_does_not_have(client: RawClient) -> None:
    """NaN and Infinity: Python reads them, JSON does not have them."""
    client.send(b'{"execute":"check","arguments":{"block":0,"deadline":NaN}}\n')
    assert client.receive()[0]["error"]["class"] in ("UsageError", "PeerError")
