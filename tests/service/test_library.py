"""libpagecheck.so.1: what it exports, and callers in C++ and through ctypes beside a service."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagecheck.include import folder, library
from pagecheck.native import _native
from pagecheck.service.protocol import PROTOCOL
from tests.support.needs import needs_program
from tests.support.service import ServiceProcess

SOURCE = Path(__file__).with_name("library_client.cc")
PROMISED = Path(__file__).with_name("libpagecheck_1.txt")
NANOSECONDS = 10**9


def public_functions(*headers: str) -> set[str]:
    text = "".join((Path(folder()) / header).read_text() for header in headers)
    comments = re.compile(r"/\*.*?\*/", re.DOTALL)
    return set(re.findall(r"\b(pagecheck_[a-z_]+)\(", comments.sub("", text)))


def exported() -> set[str]:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", library()], capture_output=True, check=True, text=True
    )
    return {line.split()[-1] for line in listed.stdout.splitlines()}


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm (binutils)")
def test_it_exports_every_public_function_and_nothing_else() -> None:
    assert exported() == public_functions("libpagecheck.h")
    defined = public_functions(*(each.name for each in Path(folder()).glob("pagecheck*.h")))
    assert defined
    assert defined <= exported()


def test_what_was_promised_stays() -> None:
    """Lines are added to that file, never changed or taken away while the name is .so.1."""
    text = (Path(folder()) / "libpagecheck.h").read_text()
    declared = " ".join(re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).split())
    promised = PROMISED.read_text().splitlines()
    assert [line for line in promised if line not in declared] == []
    assert {re.findall(r"(pagecheck_\w+)\(", line)[0] for line in promised} <= exported()


LAYOUTS = """
#include <libpagecheck.h>
_Static_assert(sizeof(struct pagecheck_region) == 32, "region");
_Static_assert(offsetof(struct pagecheck_region, mmap_offset) == 24, "region");
_Static_assert(sizeof(struct pagecheck_channel_options) == 12, "options");
_Static_assert(offsetof(struct pagecheck_channel_options, spin_us) == 8, "options");
"""


@pytest.mark.parametrize("first", ["", "#include <pagecheck.h>"], ids=["alone", "both headers"])
def test_its_structures_stay(first: str, tmp_path: Path) -> None:
    source = tmp_path / "layouts.c"
    source.write_text(first + LAYOUTS)
    strict = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run(["gcc", *strict, f"-I{folder()}", source], check=True, timeout=60)


def test_its_name_is_versioned() -> None:
    with open(library(), "rb") as file:
        assert b"libpagecheck.so.1\0" in file.read()


@pytest.mark.long(but="g++")
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_a_program_in_cpp(service: ServiceProcess, tmp_path: Path, compiler: str) -> None:
    needs_program(compiler, "g++ clang")
    flags = [
        flag
        for option in ("--includes", "--libs")
        for flag in subprocess.run(
            [sys.executable, "-P", "-m", "pagecheck", option],
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split()
    ]
    program = tmp_path / "client"
    strict = ["-std=c++11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([compiler, *strict, SOURCE, *flags, "-o", program], check=True, timeout=120)
    ran = subprocess.run([program, service.path], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (
        0,
        f"{(1 << 64) - 1 & ~(1 << 5):x} {(1 << 64) - 1:x}\n",
        "",
    )


class Options(ctypes.Structure):
    _fields_ = (("slots", ctypes.c_uint32), ("pages", ctypes.c_uint32), ("spin", ctypes.c_uint32))


@pytest.fixture
def lib() -> ctypes.CDLL:
    loaded = ctypes.CDLL(library())
    for name in ("pagecheck_client_bytes", "pagecheck_channel_bytes"):
        getattr(loaded, name).restype = ctypes.c_size_t
    for name in ("pagecheck_client_error", "pagecheck_channel_error"):
        getattr(loaded, name).restype = ctypes.c_char_p
    loaded.pagecheck_now_ns.restype = ctypes.c_int64
    return loaded


def later(lib: ctypes.CDLL) -> ctypes.c_int64:
    return ctypes.c_int64(lib.pagecheck_now_ns() + 10 * NANOSECONDS)


def test_by_ctypes(service: ServiceProcess, lib: ctypes.CDLL) -> None:
    assert (lib.pagecheck_protocol(), lib.pagecheck_layout()) == (PROTOCOL, _native.LAYOUT_VERSION)
    client = (ctypes.c_uint64 * (lib.pagecheck_client_bytes() // 8 + 1))()
    channel = (ctypes.c_uint64 * (lib.pagecheck_channel_bytes() // 8 + 1))()
    block, ticket = ctypes.c_uint32(), ctypes.c_uint64()
    zero, decided = (ctypes.c_uint64 * 2)(), (ctypes.c_uint64 * 2)()
    ram = os.memfd_create("ram")
    os.truncate(ram, 128 * 4096)
    os.pwrite(ram, b"x", 100 * 4096)
    offsets = (ctypes.c_uint64 * 128)(*(page * 4096 for page in range(128)))
    out = (ctypes.c_uint64 * 128)()
    try:
        where = os.fsencode(service.path)
        said = lib.pagecheck_client_error
        assert lib.pagecheck_connect(where, later(lib), client) == 0, said(client)
        at = (ctypes.c_uint64(4096), None, 0, later(lib), ctypes.byref(block))
        assert lib.pagecheck_attach(client, b"ram", ram, *at) == 0, said(client)
        wanted = ctypes.byref(Options(4, 128, 0))
        assert lib.pagecheck_open_channel(client, wanted, later(lib), channel) == 0, said(client)
        assert lib.pagecheck_submit(channel, block, offsets, 128, ctypes.byref(ticket)) == 0
        assert lib.pagecheck_wait(channel, ticket, later(lib), zero, decided) == 0
        assert (zero[0], zero[1]) == ((1 << 64) - 1, (1 << 64) - 1 & ~(1 << 36))
        assert lib.pagecheck_partition(offsets, zero, decided, 128, out) == 1
        assert out[0] == 100 * 4096
        assert lib.pagecheck_wait(channel, ticket, later(lib), zero, decided) < 0
        assert lib.pagecheck_channel_error(channel) != b""
        assert lib.pagecheck_close_channel(client, channel, later(lib)) == 0
        lib.pagecheck_disconnect(client)
    finally:
        os.close(ram)


def test_a_block_of_the_connection_before(service: ServiceProcess, lib: ctypes.CDLL) -> None:
    """The service calls both blocks 0. All pages of the new one are zero; the old one had none."""
    client = (ctypes.c_uint64 * (lib.pagecheck_client_bytes() // 8 + 1))()
    channel = (ctypes.c_uint64 * (lib.pagecheck_channel_bytes() // 8 + 1))()
    old, new, ticket = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_uint64()
    zero, decided = ctypes.c_uint64(), ctypes.c_uint64()
    ram = os.memfd_create("ram")
    os.truncate(ram, 64 * 4096)
    size, where = ctypes.c_uint64(4096), os.fsencode(service.path)
    said = lib.pagecheck_client_error
    try:
        for block in (old, new):
            lib.pagecheck_disconnect(client)
            assert lib.pagecheck_connect(where, later(lib), client) == 0, said(client)
            at = (size, None, 0, later(lib), ctypes.byref(block))
            assert lib.pagecheck_attach(client, b"ram", ram, *at) == 0, said(client)
        wanted = ctypes.byref(Options(4, 64, 0))
        assert lib.pagecheck_open_channel(client, wanted, later(lib), channel) == 0, said(client)
        for block, code in ((old, -errno.EPROTO), (new, 0)):
            first = (block, ctypes.c_uint64(0), 64, ctypes.byref(ticket))
            assert lib.pagecheck_submit_range(channel, *first) == 0
            words = (later(lib), ctypes.byref(zero), ctypes.byref(decided))
            assert lib.pagecheck_wait(channel, ticket, *words) == code
            assert zero.value == (0 if code else (1 << 64) - 1)
            assert lib.pagecheck_channel_refusal(channel) == (3 if code else 0)  # no such block
        assert lib.pagecheck_detach(client, old, later(lib)) == -errno.EREMOTEIO
        assert lib.pagecheck_close_channel(client, channel, ctypes.c_int64(1)) == -errno.ETIMEDOUT
        assert lib.pagecheck_close_channel(client, channel, later(lib)) == 0, said(client)
        assert lib.pagecheck_detach(client, new, later(lib)) == 0, said(client)
        lib.pagecheck_disconnect(client)
    finally:
        os.close(ram)
