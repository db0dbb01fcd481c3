"""Other programs that are asked something: QEMU itself, and qemu-img."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pagecheck import clock
from pagecheck.errors import EngineError
from pagecheck.printable import printable

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Self


class AskedProgram:
    """One that runs beside other work until its answer is needed; a context manager that ends it.

    It reads nothing.

    Attributes:
        shown: what messages call it.
    """

    def __init__(
        self, program: str, arguments: Sequence[str], seconds: float, needed: str = ""
    ) -> None:
        """Starts it.

        Args:
            program: its name or path.
            seconds: how long its answer may take once it is waited for.
            needed: what it is needed for, such as ", and overlays need it".

        Raises:
            EngineError: it is not there, or cannot be run.
        """
        self.shown = printable(program)
        self._what = arguments[0]
        self._seconds = seconds
        try:
            self._process = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except (FileNotFoundError, PermissionError) as error:
            raise EngineError(
                f"{self.shown}: is not a program that can be run{needed}; install it"
            ) from error
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise EngineError(f"{self.shown}: cannot be run: {why}") from error

    def answer(self) -> subprocess.CompletedProcess[str]:
        """Waits for its end.

        Raises:
            EngineError: it takes longer than it may.
        """
        until = clock.now_s() + self._seconds
        while True:
            left = until - clock.now_s()
            try:
                out, err = self._process.communicate(timeout=min(left, clock.SLICE_S))
            except subprocess.TimeoutExpired as error:
                if left > clock.SLICE_S:
                    continue
                raise EngineError(
                    f"{self.shown} {self._what}: no end in {self._seconds:.0f} s"
                ) from error
            return subprocess.CompletedProcess(self._what, self._process.returncode, out, err)

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def run_program(
    program: str, arguments: Sequence[str], seconds: float, needed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs one to its end; the arguments and errors are those of `AskedProgram`."""
    with AskedProgram(program, arguments, seconds, needed) as asked:
        return asked.answer()
