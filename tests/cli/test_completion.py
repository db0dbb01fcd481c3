"""Shell completion: commands, and running VMs as sources. bash is run; what the scripts of zsh and
fish ask is asked."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagecheck.cli.completion import complete_source
from tests.support.command import PAGECHECK, environment
from tests.support.stand_ins import stand_in


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[tuple[int, str]]:
    """A VM that runs: its pid and the path of its socket."""
    path = f"/tmp/pctest-{os.getpid()}.sock"
    said = ("-name", "web,, \x1b[2J one", "-m", "64", "-qmp", f"unix:{path},server=on,wait=off")
    with stand_in("qemu-system-x86_64", *said, does=f"listen({path!r})") as pid:
        yield pid, path
    os.unlink(path)


def answer(shell: str, words: str, word: int | str) -> list[str]:
    """What the script of a shell gets."""
    env = {**environment(), "COMP_WORDS": words, "COMP_CWORD": str(word)}
    env["_PAGECHECK_COMPLETE"] = f"{shell}_complete"
    done = subprocess.run([PAGECHECK], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def in_bash(*words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last of these words, as readline splits them."""
    line = " ".join(shlex.quote(word) for word in ("pagecheck", *words))
    script = f"""
        eval "$(_PAGECHECK_COMPLETE=bash_source pagecheck)"
        compopt() {{ COMPREPLY+=("${{2}}"); }}
        COMP_WORDS=({line}); COMP_CWORD={len(words)}
        _pagecheck_completion pagecheck
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = {**environment(), "PATH": f"{Path(PAGECHECK).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env=env, cwd=folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def test_bash_offers_commands() -> None:
    assert in_bash("vm") == ["vms"]
    assert in_bash("scan", "--pau") == ["--pause"]


def test_bash_takes_words_apart_at_colons(vm: tuple[int, str]) -> None:
    pid, path = vm
    assert f"{pid}" in in_bash("scan", "pid", ":")
    assert f"{pid}" in in_bash("scan", "pid", ":", str(pid)[:2])
    assert path in in_bash("scan", "--pause", "qmp", ":", path[:-4])
    assert f"pid:{pid}" in in_bash("scan", f"pid:{pid}")  # with other COMP_WORDBREAKS


def test_bash_offers_a_source_whose_prefix_is_not_typed_to_its_end(
    vm: tuple[int, str], tmp_path: Path
) -> None:
    assert f"qmp:{vm[1]}" in in_bash("scan", "q", folder=tmp_path)
    (tmp_path / "quiet.ram").touch()
    assert in_bash("scan", "q", folder=tmp_path) == ["default"]


@pytest.mark.parametrize("typed", ["", "/et", "./x"])
def test_bash_completes_files(typed: str) -> None:
    assert in_bash("scan", typed) == ["default"]


def test_zsh(vm: tuple[int, str]) -> None:
    pid, path = vm
    lines = answer("zsh", "pagecheck scan qmp:", 2)
    at = lines.index(rf"qmp\:{path}")
    assert lines[at - 1] == "plain"
    assert lines[at + 1] == r"QEMU web  \x1b[2J one 64 MiB"
    assert rf"pid\:{pid}" in answer("zsh", f"pagecheck scan pid:{pid}", 2)


def test_fish(vm: tuple[int, str]) -> None:
    pid, _ = vm
    words = f"pagecheck scan pid:{pid}"
    assert answer("fish", words, f"pid:{pid}") == [
        rf"plain,pid:{pid}" + "\t" + r"QEMU web  \x1b[2J one 64 MiB"
    ]


def test_a_path_that_needs_quotes_is_left_out() -> None:
    path = f"/tmp/pctest-$(touch x)-{os.getpid()}.sock"
    with stand_in("firecracker", "--api-sock", path, does=f"listen({path!r})") as pid:
        assert [each.value for each in complete_source("fc:") if "pctest" in each.value] == []
        assert f"pid:{pid}" in [each.value for each in complete_source("pid:")]
    os.unlink(path)


def test_an_error_completes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError

    monkeypatch.setattr("pagecheck.vmm.find.listing.list_vms", fail)
    assert complete_source("pid:") == []
    assert [each.type for each in complete_source("pi")] == ["file"]


@pytest.mark.parametrize("instruction", ["", "bash", "bash_complete", "tcsh_source", "x_y"])
def test_an_instruction_that_is_none(instruction: str) -> None:
    """Such as without the words that go with it."""
    env = {**environment(), "_PAGECHECK_COMPLETE": instruction}
    done = subprocess.run([PAGECHECK], env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
