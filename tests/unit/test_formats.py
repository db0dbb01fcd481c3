"""What is no raw RAM is told by a header that fits all of the file."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pagecheck import formats
from pagecheck.formats.found import Found, refusal
from pagecheck.formats.states import _crc64
from pagecheck.formats.streams import _xxh32
from tests.support.needs import needs_program
from tests.unit.formats_made import CERTAIN, LONG, RAM, padded, seen


@pytest.mark.parametrize("pad", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("case", CERTAIN)
def test_a_consistent_header_is_certain(case: str, pad: bool) -> None:
    make, name, command = CERTAIN[case]
    if pad and case == "firecracker":
        pytest.skip("its checksum has to be at the end")
    data = make()
    found = seen(padded(data) if pad else data)
    assert found is not None
    assert found.doubt is None
    assert name in found.name
    line = refusal("a b.raw", found)
    assert command in line
    assert "--format raw" in line
    assert "FILE " not in line.replace("FILE.", "FILE ") or "'a b.raw'" in line


TOOLS = {
    "gzip": ("gzip -c1 {ram}", "gzip"),
    "zstd": ("zstd -qc {ram}", "zstd"),
    "zstd, long": ("zstd -qc -19 --long {long}", "zstd"),
    "zstd, no checksum": ("zstd -qc --no-check {long}", "zstd"),
    "zstd, threads": ("zstd -qc -T4 {long}", "zstd"),
    "lz4": ("lz4 -qc {ram}", "lz4"),
    "lz4, long": ("lz4 -qc {long}", "lz4"),
    "lz4, blocks": ("lz4 -qc -B4 -BX --content-size {long}", "lz4"),
    "lzop": ("lzop -c {ram}", "lzop"),
    "lzop, long": ("lzop -c -9 {long}", "lzop"),
    "xz": ("xz -c0 {long}", "xz"),
    "xz, blocks": ("xz -c0 --block-size=100000 --check=sha256 {long}", "xz"),
    "bzip2": ("bzip2 -c {long}", "bzip2"),
    "tar": ("tar -cf - -C / {ram}", "tar"),
    "tar, pax": ("tar --format=pax -cf - -C / {ram}", "tar"),
    "zip": ("zip -q - {ram}", "zip"),
    "7z": ("7z a -bd {out} {ram}", "7z"),
    "qcow2": ("qemu-img convert -O qcow2 {ram} {out}", "qcow2"),
    "qcow2, small clusters": (
        "qemu-img convert -O qcow2 -o compat=0.10,cluster_size=512 {ram} {out}",
        "qcow2",
    ),
    "qcow2, large": ("qemu-img create -q -f qcow2 {out} 8T", "qcow2"),
    "vmdk": ("qemu-img convert -O vmdk {ram} {out}", "VMDK"),
    "vmdk, streamed": ("qemu-img convert -O vmdk -o subformat=streamOptimized {ram} {out}", "VMDK"),
    "vhdx": ("qemu-img convert -O vhdx {ram} {out}", "VHDX"),
    "vdi": ("qemu-img convert -O vdi {ram} {out}", "VDI"),
    "vhd": ("qemu-img convert -O vpc {ram} {out}", "VHD"),
}


@pytest.mark.parametrize("case", TOOLS)
def test_what_the_real_tools_write(tmp_path: Path, case: str) -> None:
    command, name = TOOLS[case]
    tool = command.split()[0]
    if tool == "qemu-img":
        needs_program(tool, "qemu-utils")
    elif shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    places = {each: str(tmp_path / each) for each in ("ram", "long", "out")}
    (tmp_path / "ram").write_bytes(RAM)
    (tmp_path / "long").write_bytes(LONG)
    done = subprocess.run(
        [part.format(**places) for part in command.split()], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    made = next((p for p in tmp_path.glob("out*")), None)
    found = seen(made.read_bytes() if made is not None else done.stdout)
    assert found is not None
    assert found.doubt is None
    assert name in found.name


def test_checksums_against_published_values() -> None:
    assert _crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert _xxh32(b"") == 0x02CC5D05
    assert _xxh32(b"abc") == 0x32D153FF


def test_a_plain_file_costs_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    pread = os.pread

    def counted(fd: int, size: int, at: int) -> bytes:
        reads.append(size)
        return pread(fd, size, at)

    monkeypatch.setattr(formats.os, "pread", counted)
    assert seen(RAM) is None
    assert reads == [512]


def test_names_in_commands_are_quoted() -> None:
    found = Found("x", "gzip -dc FILE >FILE.raw")
    assert "gzip -dc 'a; b' >'a; b'.raw;" in refusal("a; b", found)
    assert "gzip -dc /dev/shm/vm >" in refusal("shm:/vm", found)
    assert "gzip -dc FILE >FILE.raw;" in refusal("fd:3", found)
