"""What the NEON kernel costs in instructions, under qemu-aarch64: no Arm CPU has run it."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tools.bench.data import BUILD, ROOT
from tools.bench.rows import Row, Spread

CORE: Final = ROOT / "pagecheck" / "native" / "core"
PAGES: Final = 128  # of the program
CROSS: Final = "aarch64-linux-gnu-gcc"
QEMU: Final = "qemu-aarch64"
CASES: Final = {"zero": "all zero", "half": "half-half mix", "normal": "normal from byte 0"}


def _compile() -> Path:
    program = BUILD / "neon_cost"
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = [Path(__file__).parent / "neon_cost.c", CORE / "pc_kernel_neon.c"]
    command = [CROSS, "-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Werror", f"-I{CORE}"]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    return program


def _executed(program: Path, contestant: str, case: str, times: int) -> int:
    """Instructions of a whole run: the emulator logs each one, being told to take one at a time."""
    log = BUILD / "neon.log"
    one_at_a_time = {"QEMU_SINGLESTEP": "1", "QEMU_ONE_INSN_PER_TB": "1"}  # the older, the newer
    command = [QEMU, "-d", "exec,nochain", "-D", str(log), str(program), contestant, case]
    try:
        subprocess.run([*command, str(times)], check=True, env=os.environ | one_at_a_time)
        with log.open("rb") as lines:
            return sum(line.startswith(b"Trace ") for line in lines)
    finally:
        log.unlink(missing_ok=True)


def _per_page(program: Path, contestant: str, case: str) -> float:
    once, twice = (_executed(program, contestant, case, times) for times in (1, 2))
    return (twice - once) / PAGES


def run() -> list[Row]:
    """The kernel against a plain read by the same loads, 64 bytes a turn; exact, so measured once.

    Returns:
        A row for each kind of memory; one that says what is missing, where a tool is.
    """
    what = "kernel neon, instructions under emulation"
    missing = [tool for tool in (CROSS, QEMU) if shutil.which(tool) is None]
    if missing:
        note = f"absent: {', '.join(missing)} (Debian: gcc-aarch64-linux-gnu, qemu-user)"
        return [Row(what, "", "-", None, None, None, None, None, "", note)]
    program = _compile()
    read = _per_page(program, "read", "zero")
    return [
        Row(
            what=what,
            case=f"{words}, in order",
            peer="plain read",
            ratio=Spread.of([read / ours]),
            aim=0.95 if case == "zero" else None,
            ours=ours,
            theirs=read,
            limit=read if case == "zero" else None,
            unit="instr/page",
            limited_by="says nothing of time on an Arm CPU",
        )
        for case, words in CASES.items()
        for ours in (_per_page(program, "kernel", case),)
    ]
