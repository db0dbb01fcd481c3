"""Builds the guest's initramfs: a static busybox, `init.sh`, and four device nodes."""

import hashlib
import shutil
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final

from tools.guest.cpio import CpioArchive
from tools.guest.errors import MissingPiece

INSTALL = "apt-get install --no-install-recommends qemu-system-x86 busybox-static"

NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})

_DEVICES = {"console": (5, 1), "null": (1, 3), "zero": (1, 5), "urandom": (1, 9)}
_EM_X86_64 = 62
_PT_INTERP = 3


def static_busybox() -> bytes:
    """Reads this machine's busybox.

    Returns:
        The bytes of a program that runs in a guest that holds no libraries.

    Raises:
        MissingPiece: There is none, or it is not a static x86-64 program.
    """
    found = shutil.which("busybox")
    if found is None:
        raise MissingPiece(f"no busybox in PATH; {INSTALL}")
    program = Path(found).read_bytes()
    if not is_static_x86_64(program):
        raise MissingPiece(f"{found} is not a static x86-64 program; {INSTALL}")
    return program


def is_static_x86_64(program: bytes) -> bool:
    """Tells whether an x86-64 Linux can run a program without any other file.

    Args:
        program: The content of an executable.

    Returns:
        Whether it is a 64-bit x86 ELF file that names no dynamic loader.
    """
    if program[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", program, 18)[0] != _EM_X86_64:
        return False
    (table,) = struct.unpack_from("<Q", program, 32)  # e_phoff
    entry_bytes, entries = struct.unpack_from("<HH", program, 54)  # e_phentsize, e_phnum
    offsets = range(table, table + entries * entry_bytes, entry_bytes)
    return all(struct.unpack_from("<I", program, at)[0] != _PT_INTERP for at in offsets)


def build_initramfs(cache: Path, busybox: bytes, more: Mapping[str, bytes] = NOTHING) -> Path:
    """Writes the archive that the kernel boots into, unless it is there already.

    Its name holds the hash of its content, so a changed `init.sh` or busybox gives a new file.

    Args:
        cache: An existing folder.
        busybox: The program, from `static_busybox`.
        more: Further programs and files by their paths in the guest.

    Returns:
        The path of the archive, which is not compressed.
    """
    content = _archive(busybox, more)
    path = cache / f"initramfs-{hashlib.sha256(content).hexdigest()[:16]}.cpio"
    if not path.exists():
        with tempfile.NamedTemporaryFile(dir=cache, delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644)  # a cache may serve several users
        Path(file.name).replace(path)  # readers see all of it or nothing
    return path


def _archive(busybox: bytes, more: Mapping[str, bytes]) -> bytes:
    archive = CpioArchive()
    archive.add_directory("bin")
    archive.add_directory("dev")
    for name, (major, minor) in _DEVICES.items():
        archive.add_character_device(f"dev/{name}", major, minor)
    archive.add_program("bin/busybox", busybox)
    archive.add_program("init", Path(__file__).with_name("init.sh").read_bytes())
    folders = {str(folder) for name in more for folder in PurePath(name).parents} - {".", "bin"}
    for folder in sorted(folders):
        archive.add_directory(folder)
    for name, content in more.items():
        archive.add_program(name, content)
    return archive.render()
