"""What the C helper says of the instructions that drive a work queue."""

import platform
from pathlib import Path

import pytest

from pagecheck.native import _native

# The name that Linux gives the feature in /proc/cpuinfo.
FLAGS = {"enqcmd": "enqcmd", "movdir64b": "movdir64b", "umwait": "waitpkg"}


def cpu_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks an x86-64 CPU")
@pytest.mark.parametrize("name", FLAGS)
def test_agrees_with_the_kernel(name: str) -> None:
    if FLAGS[name] in cpu_flags():
        assert _native.cpu_why_not(name) is None
    elif name != "enqcmd":  # Linux hides ENQCMD where the system has no PASIDs
        assert _native.cpu_why_not(name) == f"this CPU lacks {name.upper()}"


@pytest.mark.skipif(platform.machine() == "x86_64", reason="asks another CPU")
@pytest.mark.parametrize("name", FLAGS)
def test_names_the_cpu_that_it_needs(name: str) -> None:
    assert _native.cpu_why_not(name) == f"{name.upper()} needs an x86-64 CPU"


@pytest.mark.parametrize("name", ["", "ENQCMD", "enqcmds", "avx2"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not one of enqcmd, movdir64b, umwait"):
        _native.cpu_why_not(name)
