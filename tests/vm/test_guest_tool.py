"""The guest tool itself: what it promises about memory, and that it leaves nothing behind."""

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.leftovers import open_fds
from tests.support.oracle import find_pages, hole_pages, zero_pages
from tools.guest import DeadlinePassed, Guest, GuestError, MissingPiece, QmpError, copy_sparse
from tools.guest import fetch as fetching
from tools.guest.cli import main
from tools.guest.fetch import GuestFiles
from tools.guest.guest import sweep
from tools.guest.initramfs import is_static_x86_64
from tools.guest.patterns import EDGE_PAGES, PAGE_BYTES, TAG_PAGES, edge_page, tag_page
from tools.guest.spec import MIB

pytestmark = pytest.mark.timeout(180)

PAGES_PER_MIB = MIB // PAGE_BYTES
SMALL_BYTES = 128 * MIB


@pytest.fixture
def ram_folder() -> Iterator[Path]:
    """A place for RAM files where no other test run puts its own."""
    with tempfile.TemporaryDirectory(prefix="pagecheck-test-", dir="/dev/shm") as name:
        yield Path(name)


def md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").digest()


def assert_gone(booted: Guest) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(booted.pid, 0)
    assert not booted.ram_path.exists()


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("place", [0, 1, 7, 8, 2048, -8, -1])
def test_oracle_sees_a_single_byte_anywhere(page_size: int, place: int) -> None:
    fd = os.memfd_create("oracle")
    try:
        os.ftruncate(fd, 5 << 20)
        pages = (5 << 20) // page_size
        dirty = {0, 3, pages - 1}
        for index in dirty:
            os.pwrite(fd, b"\x80", index * page_size + place % page_size)
        blocks = os.fstat(fd).st_blocks

        zero = zero_pages(fd, page_size)

        assert set(np.flatnonzero(~zero)) == dirty
        assert len(zero) == pages
        assert os.fstat(fd).st_blocks == blocks
    finally:
        os.close(fd)


def test_oracle_refuses_a_size_past_the_end(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(bytes(PAGE_BYTES))
    with pytest.raises(EOFError, match="0x1000"):
        zero_pages(short, PAGE_BYTES, 2 * PAGE_BYTES)


def test_zero_pages_are_the_holes_and_what_the_guest_cleared(guest: Guest) -> None:
    zero = zero_pages(guest.ram_path, PAGE_BYTES, guest.spec.size_bytes)
    holes = hole_pages(guest.ram_path, PAGE_BYTES)

    assert guest.ram_path.stat().st_size == guest.spec.size_bytes
    assert zero[holes].all()
    assert holes.sum() > 0
    assert (zero & ~holes).sum() >= guest.spec.zeros_mb * PAGES_PER_MIB
    assert (~zero).sum() >= guest.spec.random_mb * PAGES_PER_MIB + EDGE_PAGES + TAG_PAGES


def test_a_paused_guest_stands_still(guest: Guest) -> None:
    before = md5(guest.ram_path)  # a running kernel counts its ticks in this memory
    assert md5(guest.ram_path) == before


def test_every_edge_page_is_in_memory(guest: Guest) -> None:
    wanted = {edge_page(i) for i in range(EDGE_PAGES)}
    assert len(wanted) == EDGE_PAGES
    assert all(page.count(0) == PAGE_BYTES - 1 for page in wanted)
    assert set(find_pages(guest.ram_path, wanted)) == wanted


def test_every_tag_page_is_in_memory(guest: Guest) -> None:
    wanted = {tag_page(i) for i in range(TAG_PAGES)}
    assert len(wanted) == TAG_PAGES
    assert set(find_pages(guest.ram_path, wanted)) == wanted


def test_reading_guest_memory_allocates_nothing(guest: Guest) -> None:
    before = guest.ram_path.stat().st_blocks
    zero_pages(guest.ram_path, PAGE_BYTES)
    assert guest.ram_path.stat().st_blocks == before
    assert before * 512 < guest.spec.size_bytes


def test_a_snapshot_has_the_same_bytes_and_holes(guest: Guest, ram_folder: Path) -> None:
    copy = ram_folder / "copy"
    before = guest.ram_path.stat().st_blocks

    copied = copy_sparse(guest.ram_path, copy)

    assert guest.ram_path.stat().st_blocks == before
    assert copied == before * 512
    assert copy.stat().st_size == guest.spec.size_bytes
    assert copy.stat().st_blocks * 512 < guest.spec.size_bytes
    assert (hole_pages(copy, PAGE_BYTES) == hole_pages(guest.ram_path, PAGE_BYTES)).all()
    assert md5(copy) == md5(guest.ram_path)


def test_the_guest_finds_its_memory_unchanged_after_resume(guest: Guest) -> None:
    guest.resume()
    try:
        assert guest.wait_check().endswith(" OK")
    finally:
        guest.pause()


def test_a_refused_command_leaves_the_session_usable(guest: Guest) -> None:
    with pytest.raises(QmpError, match="no-such-command"):
        guest.qmp("no-such-command")
    assert guest.qmp("query-status")["status"] == "paused"


def test_a_line_that_does_not_come_is_named(guest: Guest) -> None:
    with pytest.raises(DeadlinePassed, match=r"no 'NEVER SAID' in time(?s:.*)GUEST FILLED"):
        guest.wait_line("NEVER SAID", 0.01)


@pytest.mark.long
def test_a_guest_in_a_memfd_notices_a_loss_and_leaves_nothing(guest_files: GuestFiles) -> None:
    fds = open_fds()
    with Guest.boot(
        size_bytes=SMALL_BYTES, machine="microvm", backend="memfd", random_mb=1, zeros_mb=1
    ) as booted:
        booted.wait_line("CHECK 1 OK", 30)
        booted.pause()
        (tag,) = find_pages(booted.ram_path, {tag_page(7)}).values()
        with booted.ram_path.open("r+b", buffering=0) as ram:
            os.pwrite(ram.fileno(), b"\xff", (tag + 1) * PAGE_BYTES - 1)
        booted.resume()
        booted.wait_line(" BAD", 30)
    assert_gone(booted)
    assert open_fds() == fds


@pytest.mark.long
def test_a_guest_on_arm_counts(qemu10: Path) -> None:
    with Guest.boot(
        machine="virt", backend="private", random_mb=1, zeros_mb=1, check_every_s=0
    ) as booted:
        assert booted.wait_check().endswith(" OK")
        assert booted.count() >= 2


@pytest.mark.long
def test_an_exception_leaves_nothing(guest_files: GuestFiles, ram_folder: Path) -> None:
    fds = open_fds()
    small = Guest.boot(
        size_bytes=SMALL_BYTES, machine="microvm", random_mb=1, zeros_mb=1, ram_folder=ram_folder
    )
    with pytest.raises(KeyboardInterrupt) as raised, small as booted:
        raise KeyboardInterrupt(*ram_folder.iterdir())
    assert raised.value.args == (booted.ram_path,)
    assert_gone(booted)
    assert open_fds() == fds


def test_a_boot_that_takes_too_long_leaves_nothing(
    guest_files: GuestFiles, ram_folder: Path
) -> None:
    fds = open_fds()
    late = pytest.raises(DeadlinePassed, match="no 'GUEST FILLED' in time")
    with late, Guest.boot(timeout_s=0.3, ram_folder=ram_folder):
        pass
    assert open_fds() == fds
    assert list(ram_folder.iterdir()) == []


def test_a_qemu_that_refuses_to_start_is_quoted(guest_files: GuestFiles) -> None:
    with (
        pytest.raises(GuestError, match=r"ended with status 1(?s:.*)-no-such-option"),
        Guest.boot(extra=["-no-such-option"]),
    ):
        pass


def test_a_missing_qemu_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPiece, match=r"qemu-system-x86_64.*; apt-get install .*qemu-system"):
        fetching.locate()


def test_a_missing_kernel_is_named_with_the_command_that_fetches_it(
    guest_files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(fetching, "_BOOT", tmp_path)
    with pytest.raises(MissingPiece, match=r"no guest kernel in .*python -m tools\.guest fetch"):
        fetching.locate()


def test_a_second_fetch_downloads_nothing(
    guest_files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(cache: Path) -> None:
        downloads.append(cache)
        (cache / "vmlinuz-1.2.3").write_bytes(bytes(0x202) + b"HdrS")
        (cache / "drivers-1.2.3").mkdir()

    downloads: list[Path] = []
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(fetching, "download_kernel", download)
    assert fetching.fetch() == fetching.fetch()
    assert downloads == [tmp_path]


def test_a_missing_qemu_10_is_named_with_the_command_that_fetches_it(
    guest_files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(
        MissingPiece, match=r"no QEMU 10 in .*python -m tools\.guest fetch --qemu10"
    ):
        fetching.locate(qemu="10")


def test_a_disk_without_drivers_is_refused(
    guest_files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinuz-1.2.3").write_bytes(bytes(0x202) + b"HdrS")
    monkeypatch.setenv(fetching.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(
        MissingPiece, match=r"no .*virtio_ring\.ko; run python -m tools\.guest fetch"
    ):
        fetching.locate(disk=True)


def test_qemu_10_is_a_process_like_any_other(qemu10: Path) -> None:
    """The script becomes QEMU; what it sees of the machine is ours, and no mount of it is."""
    mounts = Path("/proc/self/mountinfo").read_bytes()
    with subprocess.Popen(
        [qemu10, "-accel", "tcg", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        greeting = json.loads(process.stdout.readline())
        assert greeting["QMP"]["version"]["qemu"]["major"] == 10
        assert Path(f"/proc/{process.pid}/exe").readlink().name == qemu10.name
        assert Path(f"/proc/{process.pid}/root/{Path(__file__)}").samefile(__file__)
        assert not Path(f"/proc/{process.pid}/root/bin/sh").exists()
        assert Path("/proc/self/mountinfo").read_bytes() == mounts
        process.kill()


def test_a_program_that_needs_a_loader_is_not_static() -> None:
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<H", header, 18, 62)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 2)
    load, interpreter = struct.pack("<I52x", 1), struct.pack("<I52x", 3)
    assert is_static_x86_64(bytes(header) + load + load)
    assert not is_static_x86_64(bytes(header) + load + interpreter)
    assert not is_static_x86_64(b"#!/bin/sh\n")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"machine": "pc98"}, "pc98"),
        ({"backend": "paper"}, "paper"),
        ({"size_bytes": SMALL_BYTES + 1}, "0x8000001"),
        ({"random_mb": 500}, "too small"),
        ({"zeros_mb": 0}, "zeros_mb"),
        ({"machine": "microvm", "disk": Path("disk.raw")}, "no disk can be had on a microvm"),
        ({"write_mib_s": 50, "random_mb": 1}, "write_mib_s needs"),
        ({"write_mib_s": 50, "check_every_s": 0.5}, "write_mib_s needs"),
    ],
)
def test_values_that_make_no_guest_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(GuestError, match=said), Guest.boot(**wrong):
        pass


@pytest.mark.parametrize("backend", ["private", "numa"])
def test_a_snapshot_of_private_ram_is_refused(backend: str, tmp_path: Path) -> None:
    given = ["boot", "--backend", backend, "--snapshot", str(tmp_path / "ram")]
    ran = CliRunner().invoke(main, given)
    assert ran.exit_code == 2
    assert f"--snapshot: no file holds the RAM of --backend {backend}" in ran.output


def test_ram_of_a_killed_tool_is_removed(tmp_path: Path) -> None:
    dead, young, used, other = (
        tmp_path / name
        for name in (
            "pagecheck-guest-a.ram",
            "pagecheck-guest-b.ram",
            "pagecheck-guest-c.ram",
            "x.ram",
        )
    )
    for path in (dead, young, used, other):
        path.touch()
    for path in (dead, used, other):
        os.utime(path, (1, 1))
    with used.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == [young, used, other]
