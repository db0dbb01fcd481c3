"""The example VMM in C, built."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.needs import needs_program

ROOT = Path(__file__).parents[2]
# What builds it: the variable of examples/Makefile, the compiler, the target, flags for the linker.
BUILDS = {
    "gcc": ("CC", "gcc", "multifd_sender", ""),
    "clang": ("CC", "clang", "multifd_sender", ""),
    "musl": ("CC", "musl-gcc", "multifd_sender", "-static"),
    "g++": ("CXX", "g++", "multifd_sender_cxx", ""),
    "clang++": ("CXX", "clang++", "multifd_sender_cxx", ""),
}
STRICT = "-O2 -Wall -Wextra -Werror"


def build(kind: str, folder: Path) -> Path:
    variable, compiler, target, link = BUILDS[kind]
    needs_program(compiler, "g++ clang musl-tools")
    subprocess.run(
        [
            *("make", "--no-print-directory", "-C", ROOT / "examples", f"{folder}/{target}"),
            *(f"{variable}={compiler}", f"OUT={folder}", f"CFLAGS={STRICT}", f"LDFLAGS={link}"),
            f"INCLUDES=-I{ROOT / 'pagecheck/include'}",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return folder / target
