"""`--out DIR` that fails, or is killed, at any step: the next run knows what is there."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck.errors import OutputError
from pagecheck.report import bitmap_files, publish
from pagecheck.report.bitmap_files import Output
from tests.support.outputs import FILES, contents, make_report, write

STEPS = ("write", "fsync", "publish", "move", "sync")


@pytest.mark.parametrize("rerun", [False, True], ids=["first", "rerun"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_a_failure_at_any_step_leaves_the_folder_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    nth: int,
    rerun: bool,
    error: BaseException,
) -> None:
    if rerun:
        write(tmp_path)
    before = contents(tmp_path)
    output = Output(tmp_path, ["pc.ram"], "full", [])
    calls = 0
    where: object = {
        "write": publish.os,
        "fsync": publish.os,
        "publish": publish.Draft,
        "move": bitmap_files,
        "sync": bitmap_files,
    }[step]
    real = getattr(where, step)

    def failing(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise error
        return real(*arguments, **named)

    monkeypatch.setattr(where, step, failing)
    wanted = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    try:
        output.write(make_report(fill=4))
    except wanted:
        assert contents(tmp_path) == before
    else:
        assert calls < nth  # the step comes less often
    finally:
        monkeypatch.undo()
        output.close()


KILLED = """
import os, sys
from pathlib import Path
from pagecheck.report import bitmap_files
from pagecheck.report import publish
sys.path.insert(0, {tests!r})
from tests.support.outputs import make_report
left = {nth}
def counted(call):
    def wrapper(*arguments, **named):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)
        return call(*arguments, **named)
    return wrapper
real = publish.Draft.publish
publish.Draft.publish = counted(real)
bitmap_files.move = counted(bitmap_files.move)
os.unlink = counted(os.unlink)
with bitmap_files.Output({out!r}, ["pc.ram"], "full", []) as output:
    left = {nth}
    output.write(make_report(fill=4))
"""


@pytest.mark.parametrize("rerun", [False, True], ids=["first", "rerun"])
def test_a_kill_at_any_step_leaves_what_the_next_run_knows(tmp_path: Path, rerun: bool) -> None:
    tests = str(Path(__file__).parents[2])
    for nth in range(1, 20):
        out = tmp_path / str(nth)
        if rerun:
            write(out)
        code = KILLED.format(tests=tests, nth=nth, out=str(out))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tests)
        assert done.returncode in (0, -9), done.stderr
        if (out / "report.json").exists():  # then its files are whole
            entries = json.loads((out / "report.json").read_text())["written"]["files"]
            assert {n: (out / n).stat().st_size for n in entries} == dict.fromkeys(FILES[:2], 16)
        write(out, fill=8)
        assert sorted(os.listdir(out)) == FILES
        assert (out / "pc.ram.zero").read_bytes() == b"\x09" * 16
        if done.returncode == 0:
            return
    raise AssertionError("it never came to an end")
