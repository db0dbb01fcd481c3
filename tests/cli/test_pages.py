"""What the README shows runs as it is written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.rams import PAGE

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SCANS = next(text for _, text in BLOCKS if "pagecheck scan --out" in text).strip().split("\n")
PYTHON = next(text for kind, text in BLOCKS if kind == "python" and "Coordinator" in text)
# A diff depends on the file system, a work queue on the hardware.
ELSEWHERE = re.compile(r"vm\.diff|/dev/dsa")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with (tmp_path / "guest.ram").open("wb") as file:
        file.truncate(512 * PAGE)
        file.write(b"\1" * 100 * PAGE)
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "vm1.ram").write_bytes(bytes(4 * PAGE))
    return tmp_path


@pytest.mark.parametrize("line", [line for line in SCANS if not ELSEWHERE.search(line)])
def test_commands_run(folder: Path, line: str) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or "--out" in line


def test_python_runs(folder: Path) -> None:
    command = [sys.executable, "-P", "-c", PYTHON]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "412 of 512 pages are zero" in done.stdout
