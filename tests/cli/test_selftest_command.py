"""`pagecheck selftest` as a person meets it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support import command

ROOT = Path(__file__).parents[2]
SHORT = ("--minutes", "0.02")


@pytest.mark.long
def test_a_table_and_a_report(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    done = command.pagecheck("selftest", *SHORT, "--seed", "3", "--in", tmp_path, "--out", out)
    assert done.returncode == 0, done
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["what", "tried", "wrong"]
    assert re.search(rf"^place {tmp_path} +[1-9]\d* +worlds +0$", done.stdout, re.MULTILINE)
    assert lines[-1].startswith("nothing wrong: ")
    assert lines[-1].endswith("seed 3")
    report = json.loads(out.read_text())
    assert (report["version"], report["ok"], report["failures"]) == (1, True, [])
    assert report["host"]["kernel"] == os.uname().release
    report["host"]["cpus"].pop("flags")
    assert f'"{os.uname().nodename}"' not in json.dumps(report)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report.json"]
    described = (ROOT / "docs/json.md").read_text()
    for key in (*report, *report["parts"][0], *report["host"]):
        assert f"`{key}`" in described


def test_one_world_again_as_json() -> None:
    line = "seed=7 place=shm source=path pages=12 threads=1 kills=1 saves=1"
    done = command.pagecheck("selftest", "--world", line, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr, report["worlds"], report["saves"]) == (0, "", 1, 1)


def test_mistakes() -> None:
    done = command.pagecheck("selftest", "--world", "pages=many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pagecheck: world 'pages=many': 'pages=many' is not a number\n"
    done = command.pagecheck("selftest", "--out", "/nonexistent/report")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/nonexistent/report: cannot write" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_ended(tmp_path: Path, number: int) -> None:
    """Nothing of it stays: not in the folders, not in /dev/shm."""
    out = tmp_path / "report.json"
    before = set(os.listdir("/dev/shm"))
    process = command.start(
        *("selftest", "--minutes", "60", "-v", "--in", tmp_path, "--out", out),
    )
    assert process.stderr is not None
    assert "channels ready" in process.stderr.readline()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (128 + number, "")
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    assert set(os.listdir("/dev/shm")) - before == set()
