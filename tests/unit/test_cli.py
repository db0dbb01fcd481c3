"""The command line without a scan: help, version, kernels, mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pagecheck

ROOT = Path(pagecheck.__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pagecheck", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )


def test_version() -> None:
    ran = run("--version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert pagecheck.__version__ in ran.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["scan", "--help"]])
def test_help_names_the_exit_codes(arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.returncode, ran.stderr) == (0, "")
    for code in ("0", "1", "2", "3", "4", "130", "143"):
        assert any(code in line.split() for line in ran.stdout.splitlines())


def test_no_arguments_ask_for_help() -> None:
    ran, asked = run(), run("--help")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, asked.stdout, "")


OLD_CLICK = """
import click, sys
click.ParamType = type("ParamType", (click.ParamType,), {})  # generic since 8.4
vars(click.exceptions).pop("NoArgsIsHelpError", None)  # since 8.2
from pagecheck.cli.main import run_command
sys.exit(run_command(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [[], ["--version"], ["scan", "/none", "--length", "4K"]])
def test_what_click_did_not_always_have_is_not_needed(arguments: list[str]) -> None:
    command = [sys.executable, "-c", OLD_CLICK, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == (2 if "scan" in arguments else 0)
    assert "Traceback" not in ran.stderr


def test_help_names_every_option() -> None:
    options = (
        "engine kernel channels page-size batch-pages offset length kind holes nice max-rate "
        "deadline stall out ranges json quiet verbose"
    )
    text = run("scan", "--help").stdout
    assert [o for o in options.split() if f"--{o}" not in text] == []


def test_kernels() -> None:
    ran = run("kernels")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["kernel", "usable", "here", "auto"]
    assert sum(line.endswith(" *") for line in lines) == 1
    assert any(line.split()[:2] == ["portable", "yes"] for line in lines)


def test_kernels_json() -> None:
    ran = run("kernels", "--json")
    document = json.loads(ran.stdout)
    assert document["version"] == 1
    entries = {entry["name"]: entry for entry in document["kernels"]}
    assert entries["portable"]["usable"] is True
    assert all(entry["usable"] or entry["why"] for entry in entries.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["scan"],
        ["scan", "/none"],
        ["scan", "/none", "--page-size", "5x"],
        ["scan", "/none", "--page-size", "-4K"],
        ["scan", "/none", "--engine", "gpu"],
        ["scan", "/none", "--ranges", "--json"],
        ["scan", "fd:1000"],
        ["scan", "shm:none"],
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1 or "Usage" in ran.stderr


def test_a_mistake_with_json_is_json() -> None:
    ran = run("scan", "/none", "--json")
    document = json.loads(ran.stdout)
    assert ran.returncode == 2
    assert document["version"] == 1
    assert document["error"]["class"] == "SourceError"
    assert "/none" in document["error"]["message"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4K", 4096),
        ("4k", 4096),
        ("4KiB", 4096),
        ("2MB", 2 << 20),
        ("1G", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    from pagecheck.cli.options import SIZE

    assert SIZE.convert(text, None, None) == size
