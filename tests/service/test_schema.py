"""`service/schema.json` says what the service says, and refuses what the service refuses."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import pagecheck.service as service_package
from pagecheck import errors
from pagecheck.native import _native
from pagecheck.service import limits, protocol
from pagecheck.service.attaching import PAGE_SIZE_MAX
from pagecheck.service.commands import Commands
from pagecheck.service.metrics import PLAIN
from pagecheck.shm.layout import STATS_WORDS, statistic_array
from tests.support.known_ram import KnownRam
from tests.support.raw_client import RawClient, mapped
from tests.support.service import ServiceProcess

SCHEMA: dict[str, Any] = json.loads(files(service_package).joinpath("schema.json").read_text())
DEFS = SCHEMA["$defs"]
COMMANDS = DEFS["request"]["properties"]["execute"]["enum"]
# Those of pagecheck/errors.py that no answer of the service has: the root; storage that stalls is
# refused; a service whose workers are late at the start does not start.
NEVER_SENT = {"StorageStalled", "PagecheckError", "StartTimeout"}
U64 = (1 << 64) - 1

BUCKETS = len(statistic_array([0] * STATS_WORDS, "latencies"))


def validator(name: str) -> Draft202012Validator:
    """Of one definition."""
    return Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{name}"}]})


def closed_schema() -> dict[str, Any]:
    """The schema with every object closed: nothing is sent that it does not document."""

    def close(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node:
                node.setdefault("additionalProperties", False)
            for each in node.values():
                close(each)
        elif isinstance(node, list):
            for each in node:
                close(each)

    schema = copy.deepcopy(SCHEMA)
    close(schema)
    for command in ("detach", "close-channel"):
        schema["$defs"][f"{command}-return"]["additionalProperties"] = False
    return schema


CLOSED = closed_schema()


def check_received(message: Any, command: str | None) -> None:
    """A line from the service, to the letter."""
    Draft202012Validator({**CLOSED, "anyOf": [{"$ref": "#/$defs/from-service"}]}).validate(message)
    if "return" in message:
        definition = {**CLOSED, "anyOf": [{"$ref": f"#/$defs/{command}-return"}]}
        Draft202012Validator(definition).validate(message["return"])


class Checked(RawClient):
    """Looks at every line in both directions."""

    def send(self, message: Any, fds: Any = ()) -> None:
        self.asked = message["execute"]
        if self.conforms:
            validator("request").validate(message)
        super().send(message, fds)

    conforms = True

    def receive(self) -> tuple[dict[str, Any], list[int]]:
        message, fds = super().receive()
        check_received(message, getattr(self, "asked", None))
        return message, fds


@pytest.fixture
def checked(service: ServiceProcess) -> Iterator[Checked]:
    with Checked(service.path) as connected:
        connected.receive()
        yield connected


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_every_member_is_described() -> None:
    def look(node: Any, at: str) -> None:
        for name, member in node.get("properties", {}).items():
            if isinstance(member, bool) or "$ref" in member:
                continue
            assert member.get("title"), f"{at}.{name}"
            assert member.get("description"), f"{at}.{name}"
            look(member, f"{at}.{name}")

    for name, definition in DEFS.items():
        assert definition.get("title"), name
        assert definition.get("description"), name
        look(definition, name)


def test_a_whole_session(checked: Checked, known_ram: KnownRam, tmp_path: Any) -> None:
    assert checked.received[0]["pagecheck"]["limits"]["blocks"] == limits.BLOCKS_PER_CLIENT
    region = {"guest_phys_addr": 1 << 32, "memory_size": known_ram.size, "mmap_offset": 0}
    attach = {"name": "pc.ram", "page_size": 4096, "regions": [region], "holes": "trust"}
    block = checked.result("attach", attach, [known_ram.fd])["block"]
    on_disk = tmp_path / "disk.ram"
    on_disk.write_bytes(bytes(9 * 4096) + b"x" * 4096)
    other = checked.result("attach", {"source": str(on_disk), "offset": 4096})["block"]
    assert [each["name"] for each in checked.result("query-blocks")["blocks"]] == [
        "pc.ram",
        "disk.ram",
    ]

    message, fds = checked.execute("check", {"block": block, "progress": True}, id="one, two")
    assert message["id"] == "one, two"
    found = mapped(fds[0], message["return"]["blocks"][0]["bitmaps"], known_ram.pages)
    assert (found["zero"] == known_ram.zero).all()
    assert (found["hole"] == known_ram.hole).all()
    assert (found["normal"] == ~known_ram.zero).all()

    checked.result("check", {"blocks": [other, block], "kind": "diff", "deadline": 60})
    ranges = [{"first": 1, "count": 2}, {"gpa": 1 << 32, "size": 4096}]
    selected = checked.result("check", {"block": block, "ranges": ranges})
    assert selected["blocks"][0]["counts"]["pages"] == 3
    bitmap = KnownRam(1, kinds=["first"])
    assert (
        checked.result("check", {"block": block, "bitmap": True}, [bitmap.fd])["blocks"][0][
            "counts"
        ]["pages"]
        == 1
    )
    bitmap.close()
    with on_disk.open("r+b") as file:
        error = checked.error("save", {"blocks": [block], "live": True}, [file.fileno()])
    assert error["desc"].startswith("save: is of the blocks of one VM")
    error = checked.error("punch", {"block": block, "dry_run": True})
    assert error["desc"].startswith("punch: is of a block of a VM")
    channel = checked.result("open-channel", {"slots": 4, "slot_pages": 65, "spin_us": 10})
    assert channel["slot_pages"] == 128
    stats = checked.result("query-stats")
    assert stats["sessions"][0]["channels"][0]["worker"] == channel["worker"]
    assert len(stats["engines"]["cpu"]["latencies"]) == BUCKETS
    checked.result("close-channel", {"channel": channel["channel"]})
    checked.result("detach", {"block": block})
    assert set(COMMANDS) == {line["execute"] for line in checked.sent}


def test_progress_is_told(checked: Checked) -> None:
    ram = KnownRam(1024, kinds=["random"])
    checked.result("attach", {}, [ram.fd])
    asked = {"block": 0, "progress": True, "max_rate": 16 << 20}
    message, _fds = checked.execute("check", asked, id="slow")
    events = [line for line in checked.received if "event" in line]
    assert message["id"] == "slow"
    assert events
    assert all(event["id"] == "slow" and event["data"]["bytes"] == ram.size for event in events)
    ram.close()


def test_errors_have_their_class(service: ServiceProcess, checked: Checked) -> None:
    checked.conforms = False
    empty = KnownRam(0)
    assert checked.error("attach", {}, [empty.fd])["class"] == "SourceError"
    empty.close()
    assert checked.error("attach", {"source": "/nowhere/ram"})["class"] == "SourceError"
    assert checked.error("no-such-command")["class"] == "UsageError"
    assert checked.error("query-stats", {}, [0])["class"] == "UsageError"
    for line in (b"not json\n", b"[1]\n", b"\xff\n"):
        RawClient.send(checked, line)
        assert checked.receive()[0]["error"]["class"] == "PeerError"
    with Checked(service.path) as other:
        other.receive()
        RawClient.send(other, b"x" * (protocol.LINE_BYTES + 2))
        assert other.receive()[0]["error"]["class"] == "LimitError"
        with pytest.raises((EOFError, ConnectionResetError)):
            other.receive()


def test_its_commands_are_the_service_s() -> None:
    known = set(Commands(None, None, None, None, lambda _data: None)._known)  # type: ignore[arg-type]
    assert known == set(COMMANDS)
    for command in known:
        assert f"{command}-arguments" in DEFS
        assert f"{command}-return" in DEFS
    conditions = [each["if"]["properties"]["execute"]["const"] for each in DEFS["request"]["allOf"]]
    assert sorted(conditions) == sorted(known)
    returns = {each["$ref"] for each in DEFS["return"]["properties"]["return"]["anyOf"]}
    assert returns == {f"#/$defs/{command}-return" for command in known}


def test_its_error_classes_are_the_package_s() -> None:
    classes = {
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, errors.PagecheckError)
    }
    told = {
        each["const"]
        for each in DEFS["error"]["properties"]["error"]["properties"]["class"]["anyOf"]
    }
    assert told == classes - NEVER_SENT


def test_its_limits_are_the_code_s() -> None:
    attach = DEFS["attach-arguments"]["properties"]
    check = DEFS["check-arguments"]["properties"]
    channel = DEFS["open-channel-arguments"]["properties"]
    blocks = limits.BLOCKS_PER_CLIENT
    assert attach["page_size"]["enum"] == [1 << n for n in range(12, PAGE_SIZE_MAX.bit_length())]
    assert attach["regions"]["maxItems"] == limits.REGIONS_PER_BLOCK
    assert attach["name"]["maxLength"] == limits.NAME_CHARS
    assert check["ranges"]["maxItems"] == limits.RANGES_PER_CHECK
    assert check["blocks"]["maxItems"] == blocks
    for definition in ("save-arguments", "save-return"):
        assert DEFS[definition]["properties"]["blocks"]["maxItems"] == protocol.FDS_PER_LINE
    for each in (check["block"], check["blocks"]["items"], DEFS["block"]["properties"]["block"]):
        assert each["maximum"] == limits.NUMBER_MAX
    assert channel["slots"]["maximum"] == limits.SLOTS_MAX
    assert channel["slot_pages"]["maximum"] == _native.SLOT_PAGES_MAX
    assert channel["spin_us"]["maximum"] == limits.SPIN_US_MAX
    assert DEFS["close-channel-arguments"]["properties"]["channel"]["maximum"] == limits.NUMBER_MAX
    greeting = DEFS["greeting"]["properties"]["pagecheck"]["properties"]
    assert greeting["protocol"]["const"] == protocol.PROTOCOL
    assert f"at most {protocol.LINE_BYTES} bytes" in SCHEMA["description"]
    assert f"at most {protocol.FDS_PER_LINE} with one line" in SCHEMA["description"]
    for capability in protocol.CAPABILITIES:
        assert f"`{capability}`" in greeting["capabilities"]["description"]
    counted = {counter for _name, _text, counter in PLAIN} | {"holes"}
    assert set(DEFS["query-stats-return"]["properties"]["numbers"]["properties"]) == counted


def test_the_session_in_the_documentation_conforms() -> None:
    text = (Path(__file__).parents[2] / "docs/service.md").read_text()
    begin = text.index("```\nS: {") + 4
    session = text[begin : text.index("\n```", begin)]
    messages = []
    for line in re.split(r"^(?=[CS]: )", session, flags=re.MULTILINE)[1:]:
        sender, body = line.split(" ", 1)
        messages.append((sender, json.loads(re.sub(r" +\+ .*", "", body))))
    commands = {message["id"]: message["execute"] for who, message in messages if who == "C:"}
    assert len(messages) == 12
    for who, message in messages:
        if who == "C:":
            validator("request").validate(message)
        else:
            check_received(message, commands.get(message.get("id")))
