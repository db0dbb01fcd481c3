"""Files on file systems that may never answer."""

import json
import os
import signal
from pathlib import Path

import pytest

from pagecheck.survey.find import find
from pagecheck.survey.values import Row
from tests.support.command import pagecheck, start, tagged_processes
from tests.support.file_systems import mounted
from tests.support.stalling_fs import FILE_BYTES, stalling_fs
from tests.support.waiting import wait_for
from tests.survey.files import PAGE, memory


def rows(done) -> dict[str, dict]:
    return {row["path"]: row for row in map(json.loads, done.stdout.splitlines())}


@pytest.fixture
def near(tmp_path: Path) -> Path:
    return memory(tmp_path / "near", "nz")


@pytest.mark.parametrize("operation", ["LOOKUP", "READ"])
def test_a_file_that_does_not_come_is_a_row(near: Path, operation: str) -> None:
    with stalling_fs(frozenset({operation})) as fs:
        done = pagecheck("survey", "--json", "--stall", "0.5", near, fs.path, timeout=30)
        found = rows(done)
        assert done.returncode == 1, done.stderr
        assert found[str(near)]["error"] is None
        assert "did not answer for 0.5 s" in found[fs.path]["error"]
    wait_for(lambda: not tagged_processes(), "the end of what was left")


def test_a_file_that_comes_is_checked(near: Path, tmp_path: Path) -> None:
    with stalling_fs(frozenset()) as fs:
        for _ in range(2):
            words = ("survey", "--json", "--out", tmp_path / "out", "--resume", near, fs.path)
            done = pagecheck(*words, timeout=30)
            assert (done.returncode, done.stderr) == (0, "")
            row = rows(done)[fs.path]
            assert (row["pages"], row["zero"]) == (FILE_BYTES // PAGE, FILE_BYTES // PAGE)


@pytest.mark.long(but="*/ram")
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*/ram", ["far/ram", "fine/ram"]),
        ("**/far/ram", ["far/ram"]),
        ("**/ram", ["fine/ram"]),  # through no link, but where one leads is asked for
        ("fine/*", ["fine/link", "fine/ram"]),
    ],
)
def test_what_a_pattern_leads_to_is_not_waited_for(
    near: Path, tmp_path: Path, pattern: str, names: list[str]
) -> None:
    memory(tmp_path / "fine" / "ram", "z")
    words = ("survey", "--json", "--stall", "0.5", near, tmp_path / pattern)
    with stalling_fs(frozenset()) as fs:
        os.symlink(os.path.dirname(fs.path), tmp_path / "far")
        os.symlink(fs.path, tmp_path / "fine/link")
        found = rows(pagecheck(*words, timeout=30))
        assert found.keys() == {str(near), *(str(tmp_path / name) for name in names)}
        fs.stall("LOOKUP", "GETATTR")
        found = rows(pagecheck(*words, timeout=30))
        assert found[str(near)]["error"] is None
        assert "did not answer for 0.5 s" in found[str(tmp_path / pattern)]["error"]
    wait_for(lambda: not tagged_processes(), "the end of what was left")


def test_an_interrupt_ends_it_soon(near: Path, tmp_path: Path) -> None:
    with stalling_fs(frozenset({"READ"})) as fs:
        running = start("survey", "--out", tmp_path / "out", near, fs.path)
        fs.await_word("READ", 30)
        running.send_signal(signal.SIGINT)
        printed, said = running.communicate(timeout=10)
        assert (running.returncode, said) == (130, "pagecheck: interrupted\n")
        assert str(near) in printed
    wait_for(lambda: not tagged_processes(), "the end of what was left")


def test_mounts_in_a_folder_are_left_to_others_or_out(tmp_path: Path) -> None:
    memory(tmp_path / "ram", "n")
    with mounted(tmp_path, "tmpfs", "64K") as inside:
        memory(inside / "ram", "n")
        os.makedirs(tmp_path / "proc")
        far: list[tuple[str, str]] = []
        found = [each.path for each in find([str(tmp_path)], on_far=lambda *each: far.append(each))]
        assert found == [str(tmp_path / "ram"), str(inside / "ram")]
        assert far == []
    far = []
    rest = list(find(["/sys/kernel/mm"], on_far=lambda *each: far.append(each)))
    assert (rest, far) == ([], [("/sys/kernel/mm", "sysfs")])
    assert not [each for each in find([str(tmp_path)]) if isinstance(each, Row)]
