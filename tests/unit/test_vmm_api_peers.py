"""Answers that no Firecracker and no Cloud Hypervisor gives: each is one clear line, soon."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.errors import PeerError
from pagecheck.vmm import VmmMonitor
from pagecheck.vmm.kinds import KINDS
from tests.support.api_vmm import STATE, ApiVmm, api_vmm
from tests.support.qmp import in_watchdog

pytestmark = [pytest.mark.long(but="fc"), pytest.mark.usefixtures("clean")]

BOUND_S = 30.0
IMPATIENT = (
    "import pagecheck.vmm.hold.http as h, pagecheck.vmm.hold.api_control as a; "
    "h.REQUEST_S = a.CONNECT_S = 1.0; h.ANSWER_BYTES = 1 << 20"
)
DEEP = "[" * 100_000


@pytest.fixture(params=["fc", "ch"])
def vmm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ApiVmm]:
    with api_vmm(request.param, tmp_path / "api") as running:
        yield running


def answered(vmm: ApiVmm) -> str:
    """What is reported of the answer to the question for the state; that nobody waits long."""
    begun = time.monotonic()
    with pytest.raises(PeerError) as caught:
        VmmMonitor(KINDS[vmm.kind], str(vmm.path)).close()
    assert time.monotonic() - begun < BOUND_S
    text = str(caught.value)
    assert text.startswith(f"{vmm.source}: ")
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 600
    return text


@pytest.mark.long(but=("fc-silent", "ch-stuck", "fc-late"))
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("silent", "did not answer GET"),
        ("stuck", "did not answer GET"),
        ("drip", "did not answer GET"),
        ("hangup", "no answer to GET .*it hung up"),
        ("half", "no answer to GET .*it hung up"),
        ("garbage", "no answer to GET .*illegal"),
        ("endless", "no answer to GET .*longer than 1 MiB"),
        ("large", "did not answer GET"),
        ("headers", "no answer to GET .*too long|Receive buffer|too large"),
        ("interim", "no answer to GET .*longer than 1 MiB|did not answer GET"),
        ("die", "no answer to GET .*(hung up|reset)"),
        ("body nonsense", "is not JSON: 'nonsense'"),
        ("body \x1b[2Jx", "is not JSON"),
        (f"body {DEEP}", "is not JSON"),
        ("body 1" + "0" * 5000, "is not JSON|must be an object"),
        ("body [1]", "must be an object, is .1.; give the path of"),
        ("body {}", "must be an object with 'state'"),
        ('body {"state": 7}', "state: must be a string, is 7"),
        ('body {"state": null}', "state: must be a string"),
        ("status 503 busy", r"refused GET .*: busy \(HTTP 503\)"),
        ("status 500", r"refused GET .*: no reason given \(HTTP 500\)"),
        ("status 302 /elsewhere", r"refused GET .*HTTP 302"),
        ('status 400 {"fault_message": {"a": ["\\u001b"]}}', r"refused GET .*HTTP 400"),
    ],
    ids=lambda text: text[:24].split("\x1b")[0],
)
def test_of_the_question_for_the_state(
    vmm: ApiVmm, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    in_watchdog(monkeypatch, IMPATIENT)
    vmm.fail({STATE[vmm.kind]: f"then {fault}"})
    text = answered(vmm)
    assert re.search(said, text), text


@pytest.mark.parametrize("fault", ["chunked", "unframed", "last", "idle"])
def test_unusual_and_correct_answers(vmm: ApiVmm, fault: str) -> None:
    vmm.fail({STATE[vmm.kind]: f"carry out, then {fault}"})
    with VmmMonitor(KINDS[vmm.kind], str(vmm.path)) as monitor:
        monitor.pause(60)
        assert monitor.resume().stood_still
    assert vmm.runs()
