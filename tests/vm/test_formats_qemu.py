"""What a real QEMU writes of its RAM: what is raw is scanned, everything else is refused by name,
and the command in the refusal makes the same answer of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagecheck
from pagecheck.errors import SourceError
from tests.support import command
from tests.support.waiting import wait_for
from tests.vm.bare_qemu import BareQemu, bare_qemu, file_backend

pytestmark = pytest.mark.usefixtures("guest_files")

PAGE = 4096
SIZE = 32 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def qemu(folder: Path) -> Iterator[BareQemu]:
    """Stopped before its first instruction, with some pages that are not zero."""
    (folder / "ram").touch()
    backend = file_backend("32M", folder / "ram")
    with bare_qemu(*backend, "-S", machine="q35,memory-backend=mem0", size="32M") as started:
        with open(folder / "ram", "r+b") as file:
            for page in (2, 3, 300, 4000, 8191):
                file.seek(page * PAGE)
                file.write(os.urandom(PAGE))
        yield started


def refused(path: Path) -> str:
    with pytest.raises(SourceError, match="not raw guest RAM") as caught:
        pagecheck.scan(path)
    pagecheck.scan(path, format="raw", length=os.stat(path).st_size // PAGE * PAGE)
    return str(caught.value)


def test_pmemsave_is_raw(qemu: BareQemu, folder: Path) -> None:
    qemu.qmp("pmemsave", val=0, size=SIZE, filename=str(folder / "raw"))
    report = pagecheck.scan(folder / "raw")
    assert report.total.pages == SIZE // PAGE
    assert not report.notes


def test_elf_core(qemu: BareQemu, folder: Path) -> None:
    path = folder / "core"
    qemu.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}", format="elf")
    line = refused(path)
    assert "is an ELF core" in line
    command = re.search(r"; (dd if=.*? count=\d+) extracts", line)
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True, capture_output=True, timeout=60)
    start = int(re.search(r"at physical (0x[0-9a-f]+)", line)[1], 16) // PAGE  # type: ignore[index]
    pages = (folder / "core.raw").stat().st_size // PAGE
    whole = pagecheck.scan(folder / "ram", offset=start * PAGE, length=pages * PAGE)
    assert pages > 7000
    assert bytes(pagecheck.scan(folder / "core.raw").blocks[0].zero) == bytes(whole.blocks[0].zero)


def test_kdump(qemu: BareQemu, folder: Path) -> None:
    path = folder / "kdump"
    qemu.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}", format="kdump-zlib")
    assert "is a flattened kdump" in refused(path)


def test_migration_stream(qemu: BareQemu, folder: Path) -> None:
    path = folder / "stream"
    qemu.qmp("migrate", uri=f"exec:cat >{path}")
    wait_for(lambda: qemu.qmp("query-migrate").get("status") == "completed", "the stream written")
    assert "is a QEMU migration stream" in refused(path)


def test_the_command_line_says_it(folder: Path, qemu: BareQemu) -> None:
    path = folder / "core of the command line"
    qemu.qmp("dump-guest-memory", paging=False, protocol=f"file:{path}", format="elf")
    done = command.pagecheck("scan", "--json", path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["error"]["class"] == "SourceError"
    assert f"if='{path}'" in done.stderr
