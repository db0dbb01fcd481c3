"""`pagecheck devices --probe`: on the software device, and what is said where there is none."""

import json
import os
from pathlib import Path

import pytest

from pagecheck.cli.main import run_command
from pagecheck.hw import probe as probing
from pagecheck.hw import queues
from tests.support.command import pagecheck
from tests.support.sysfs_tree import Tree

STEPS = ["open", "zero page", "normal page", "batch of 8", "absent page", "full queue", "close"]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def probed(*names: str) -> tuple[int, list[dict]]:
    done = pagecheck("devices", "--probe", "--json", *names)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["probes"]


@pytest.mark.parametrize(
    ("options", "submit", "batches"),
    [
        ("", "enqcmd", True),
        ("mode=dedicated", "movdir64b", True),
        ("mode=write", "write", False),
        ("mode=write,version=2", "write", True),
        ("size=1,batch=8", "enqcmd", True),
    ],
)
def test_a_queue_that_works(options: str, submit: str, batches: bool) -> None:
    code, [found] = probed(f"model:{options}")
    assert (code, found["ok"], found["submit"]) == (0, True, submit)
    assert [s["name"] for s in found["steps"]] == [s for s in STEPS if batches or "batch" not in s]
    for step in found["steps"][1:-2]:
        assert len(bytes.fromhex(step["descriptor"])) == 64
        assert {len(bytes.fromhex(record)) for record in step["records"]} == {32}
    fault = next(s for s in found["steps"] if s["name"] == "absent page")
    assert int(fault["records"][0][:2], 16) & 0x3F == 3


def test_a_full_queue_is_told_with_what_it_took() -> None:
    _, [found] = probed("model:size=16,threshold=9,delay=100000")
    assert {s["name"]: s["said"] for s in found["steps"]}["full queue"] == (
        "took 9 descriptors, then: full"
    )


def test_a_dedicated_queue_is_never_overfilled() -> None:
    _, [found] = probed("model:mode=dedicated")
    assert "not tried" in {s["name"]: s["said"] for s in found["steps"]}["full queue"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "ANSWER_S", 0.2)
    monkeypatch.setattr(probing, "CLOSE_S", 0.2)


@pytest.mark.parametrize(
    ("faults", "step", "words"),
    [
        ("page-fault", "batch of 8", "status 0x05, 8 of 8 members; member "),
        ("lost-all", "zero page", "no completion record after 0 s"),
        ("always-full", "zero page", "the queue accepts nothing for 0 s"),
        ("stuck-close", "close", "has not released this process"),
    ],
)
def test_what_is_wrong_is_told(impatient: None, faults: str, step: str, words: str) -> None:
    found = probing.probe(f"model:faults={faults}")
    assert not found.ok
    said = {s.name: s for s in found.steps}
    assert not said[step].ok
    assert words in said[step].said


def test_nothing_is_submitted_after_a_lost_answer(impatient: None) -> None:
    """A late record would be taken for that of the next step."""
    names = [step.name for step in probing.probe("model:faults=lost-all").steps]
    assert names == ["open", "zero page", "stopped", "close"]


def test_the_table_shows_what_went_wrong() -> None:
    done = pagecheck("devices", "--probe", "model:faults=page-fault")
    assert done.returncode == 1
    assert done.stdout.startswith("model:faults=page-fault: WRONG\n")
    assert sum(line.strip().startswith("record") for line in done.stdout.splitlines()) > 9
    assert "descriptor" in done.stdout


def test_the_file_for_a_report(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = pagecheck("devices", "--probe", "--out", str(path), "model:")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(path.read_text())
    assert report["host"]["kernel"] == os.uname().release
    assert set(report["host"]) >= {"pagecheck", "machine", "enqcmd", "movdir64b", "umwait"}
    assert report["probes"][0]["ok"] is True
    assert isinstance(report["sysfs"], dict)
    before = path.read_bytes()
    done = pagecheck("devices", "--probe", "--out", str(path), "model:")
    assert (done.returncode, path.read_bytes()) == (2, before)
    assert "exists; give a new name" in done.stderr
    done = pagecheck("devices", "--probe", "--out", str(tmp_path / "none/x"), "model:")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_sysfs_goes_into_the_report(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tree.device()
    tree.queue(name="x\x1b[2J")
    monkeypatch.setattr(queues, "Host", tree.host)
    assert run_command(["devices", "--probe", "--out", str(tmp_path / "r"), "model:"]) == 0
    sysfs = json.loads((tmp_path / "r").read_text())["sysfs"]
    assert sysfs["dsa0"]["max_batch_size"] == "1024"
    assert sysfs["dsa0/wq0.0"]["type"] == "user"
    assert sysfs["dsa0/wq0.0"]["name"] == "x?[2J"


def test_a_node_that_is_no_queue(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The fixed tree's nodes are files: what is written there has no answer, or is refused."""
    tree.device()
    path = tree.queue(state="disabled")
    monkeypatch.setattr(queues, "Host", tree.host)
    assert run_command(["devices", "--probe", path]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: WRONG\n")
    assert "state is disabled" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--probe"], 3, "nothing to probe: "),
        (["--probe", "model:size=0"], 2, "size"),
        (["--probe", "model:faults=nonsense"], 2, "nonsense"),
        (["--probe", "/dev/dsa/wq9.9"], 3, "wq9.9"),
        (["model:"], 2, "--probe"),
        (["--out", "x"], 2, "--probe"),
    ],
)
def test_mistakes(arguments: list[str], code: int, words: str) -> None:
    done = pagecheck("devices", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
