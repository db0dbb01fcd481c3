"""A C helper that is older than its sources is named where something unexpected happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagecheck.cli import main
from pagecheck.errors import InternalError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that was just built."""
    for folder in ("cli", "native/core"):
        (tmp_path / folder).mkdir(parents=True)
    for name, built in (("native/core/pc.c", 100), ("native/_native.abi3.so", 200)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (built, built))
    monkeypatch.setattr(main, "__file__", str(tmp_path / "cli/main.py"))
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
    assert not main._helper_is_stale()
