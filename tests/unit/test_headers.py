"""The headers for VMM authors: each stands alone, the ring does no I/O, and all are installed."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pagecheck.include import folder

ROOT = Path(__file__).parents[2]
HEADERS = sorted(path.name for path in Path(folder()).glob("*.h"))
# What a ring needs: memory, time and sleep.
WITHOUT_IO = {
    *("errno.h", "limits.h", "stdbool.h", "stddef.h", "stdint.h", "string.h"),
    *("sys/mman.h", "sys/syscall.h", "time.h", "unistd.h"),
}
CALLS = re.compile(r"\b(open|read|write|pread|poll|fcntl|close|socket|send\w*|recv\w*|\w*printf)\(")
COMPILERS = {
    "c11": ("gcc", "-x", "c", "-std=c11"),
    "c++11": ("g++", "-x", "c++", "-std=c++11"),
}


@pytest.mark.parametrize("name", ["pagecheck_ring.h", "pagecheck_channel.h"])
def test_the_ring_does_no_io(name: str) -> None:
    text = Path(folder(), name).read_text()
    assert set(re.findall(r"#include <(.*?)>", text)) <= WITHOUT_IO
    assert CALLS.findall(re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)) == []


def test_what_does_io_is_seen() -> None:
    assert CALLS.search(Path(folder(), "pagecheck_client.h").read_text())


@pytest.mark.parametrize("language", COMPILERS)
@pytest.mark.parametrize("name", HEADERS)
def test_each_stands_alone(name: str, language: str) -> None:
    compiler, *flags = COMPILERS[language]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    warnings = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror")
    command = [compiler, *flags, "-D_DEFAULT_SOURCE", *warnings, "-fsyntax-only", f"-I{folder()}"]
    source = f"#include <{name}>\n#include <{name}>\n"
    ran = subprocess.run([*command, "-"], input=source, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr


def test_all_are_installed() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    listed = setup["options.data_files"]["include"].split()
    assert sorted(listed) == [f"pagecheck/include/{name}" for name in HEADERS]


def test_the_core_and_vmms_have_the_same_ring() -> None:
    layout = (ROOT / "pagecheck/native/core/pc_layout.h").read_text()
    assert '#include "../../include/pagecheck_ring.h"' in layout
    core = "".join(path.read_text() for path in (ROOT / "pagecheck/native/core").glob("*.[ch]"))
    assert not re.search(r"\bPC_(SEGMENT_MAGIC|ANSWER_DONE|REQUEST_SUBMITTED)\b", core)
    assert "FUTEX_WAIT" not in core
