"""A copy of the tree, in which mutants are built and tested."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.mutants.values import Mutant, mutated

ROOT: Final = Path(__file__).parents[2]
NATIVE_LIMIT_S: Final = 60
PYTEST_LIMIT_S: Final = 240
TEST_LIMIT_S: Final = 20
_ALONE: Final = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    *('mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$@"', "sh"),
)


class BuildError(Exception):
    """A mutant that does not compile shows nothing."""


class Tree:
    """A copy of the files of the tree, with C programs and the extension of their own.

    Args:
        folder: an empty folder.
        jobs: compilers and test programs at a time.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._writes = 0
        self._server: subprocess.Popen[str] | None = None
        # Neither optimised nor with warnings: a mutant may leave something unused.
        self._flags = [f"JOBS={jobs}", "CFLAGS=-w", "OPTIMISE=-O1"]
        # Tests look for what others leave in /dev/shm.
        done = subprocess.run([*_ALONE, "true"], capture_output=True, check=False)
        self._alone = _ALONE if done.returncode == 0 else ()
        for name in self._names():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    def _names(self) -> list[str]:
        listed = _output(["git", "ls-files", "-co", "--exclude-standard"], ROOT).splitlines()
        built = [str(path.relative_to(ROOT)) for path in ROOT.glob("pagecheck/native/*.so")]
        return [name for name in (*listed, *built) if (ROOT / name).is_file()]

    def failing(self, mutant: Mutant) -> str | None:
        """The test that notices the mutant; None: it survives.

        Raises:
            BuildError: it cannot be built.
            ValueError: the text that it changes is not there once.
        """
        path = self.folder / mutant.path
        before = path.read_text()
        self._write(path, mutated(before, mutant))
        try:
            native = [test for test in mutant.tests if "/" not in test]
            return self._native(native) or self._pytest(
                [test for test in mutant.tests if "/" in test]
            )
        finally:
            self._write(path, before)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        if path.suffix == ".py":  # a time of its own: compiled files are compared by it
            self._writes += 1
            os.utime(path, (self._writes, self._writes))

    def baseline(self, tests: set[str]) -> str | None:
        """The test that fails without any mutant; None: all pass."""
        native = sorted(test for test in tests if "/" not in test)
        return self._native(native) or self._pytest(sorted(tests - set(native)))

    def _native(self, tests: list[str]) -> str | None:
        for test in tests:
            flavour, _, name = test.rpartition(":")
            flavour = flavour or "plain"
            program = f"../../build/native/{flavour}/{name}"
            done = self._make(program, 600)
            if done.returncode != 0:
                raise BuildError(done.stderr[-2000:])
            try:
                if self._make(f"run/{flavour}/{name}", NATIVE_LIMIT_S).returncode != 0:
                    return test
            except subprocess.TimeoutExpired:
                return f"{test} (it does not end)"
        return None

    def _make(self, target: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        command = ["make", "-s", "-C", "tests/native", *self._flags, target]
        return _run(command, self.folder, limit_s)

    def _pytest(self, tests: list[str]) -> str | None:
        if not tests:
            return None
        arguments = ["-q", "-x", "--ff", f"--timeout={TEST_LIMIT_S}"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]
        code, output = self._served(arguments)
        if code is None:
            return f"{tests[0]} (it does not end)"
        if code == 0:
            return None
        failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" - ")[0] if failed else output[-300:]

    def _served(self, arguments: list[str]) -> tuple[int | None, str]:
        if self._server is None:
            own = ["/dev/shm"] if self._alone else []
            self._server = subprocess.Popen(
                [*self._alone, sys.executable, "-m", "tools.mutants.server", *own],
                cwd=self.folder,
                env=_environment(self.folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps([arguments, PYTEST_LIMIT_S]), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        return answer["code"], answer["output"]

    def close(self) -> None:
        """Ends the process that runs pytest."""
        if self._server is not None:
            self._server.communicate()


def _output(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def _environment(folder: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("MAKEFLAGS", None)  # of a make that runs this
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def _run(command: list[str], folder: Path, limit_s: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run, but what the command started ends with it."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)
