"""A C helper that is older than its sources, or not built, is named where it is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck.cli import main, outcome
from pagecheck.errors import InternalError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that was just built."""
    for folder in ("cli", "native/core"):
        (tmp_path / folder).mkdir(parents=True)
    for name, built in (("native/core/pc.c", 100), ("native/_native.abi3.so", 200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (built, built))
    monkeypatch.setattr(outcome, "__file__", str(tmp_path / "cli/outcome.py"))
    return tmp_path


@pytest.mark.parametrize("error", [AttributeError("x"), InternalError("x")])
@pytest.mark.parametrize("stale", [False, True])
def test_what_is_said(
    package: Path,
    error: Exception,
    stale: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    if stale:
        os.utime(package / "native/core/pc.c", (300, 300))
    monkeypatch.setattr(main.cli, "invoke", fail)
    assert main.run_command(["scan", "x"]) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("older than its sources" in said) == stale


def test_an_installed_one_has_no_sources(package: Path) -> None:
    (package / "native/core/pc.c").unlink()
    assert not outcome.helper_is_stale()


@pytest.mark.parametrize(
    ("helper", "said"),
    [
        (None, "No module named"),
        ("Feed = Portal = Worker = None", "cannot import name 'ProcessWalk'"),
    ],
)
def test_a_helper_that_is_not_built_or_of_another_version(
    tmp_path: Path, helper: str | None, said: str
) -> None:
    source = Path(main.__file__).parents[1]
    unbuilt = shutil.ignore_patterns("*.so", "*.so.1", "__pycache__", "core", "model")
    shutil.copytree(source, tmp_path / "pagecheck", ignore=unbuilt)
    if helper is not None:
        (tmp_path / "pagecheck/native/_native.py").write_text(helper)
    command = [sys.executable, "-m", "pagecheck", "kernels"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert f"the C helper cannot be loaded: {said}" in done.stderr
    assert "docs/installation.md" in done.stderr
    assert done.stderr.count("\n") == 1
