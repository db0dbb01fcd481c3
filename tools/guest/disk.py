"""What a guest with a virtio disk needs beside its kernel: drivers, and a file system's programs.

The drivers come with the kernel's package; `mke2fs` and `e2fsck` are this machine's own, with the
libraries that they load. So the guest itself makes its file system, and checks it for ever.
"""

import re
import shutil
import struct
import subprocess
from pathlib import Path

from tools.guest.errors import MissingPiece

# In the order in which they are loaded.
DRIVERS = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
)
DISK_BYTES = 32 << 20
_PROGRAMS = ("mke2fs", "e2fsck")
_SETTINGS = Path("/etc/mke2fs.conf")
_LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_QUESTION_S = 30.0


def disk_programs(kernel: Path) -> dict[str, bytes]:
    """Reads what the initramfs of a guest with a disk holds beside busybox.

    Args:
        kernel: The guest's kernel; its drivers lie beside it, see `keep_drivers`.

    Returns:
        The content of each file, by its path in the guest.

    Raises:
        MissingPiece: A driver or a program is not there.
    """
    found: dict[str, bytes] = {}
    for number, name in enumerate(DRIVERS):
        driver = drivers_of(kernel) / f"{name}.ko"
        if not driver.exists():
            raise MissingPiece(
                f"no {driver}; run python -m tools.guest fetch (Debian's kernels have it)"
            )
        found[f"drivers/{number}-{name}.ko"] = driver.read_bytes()
    for name in _PROGRAMS:
        program = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if program is None:
            raise MissingPiece(f"no {name}; apt-get install e2fsprogs")
        found[f"e2fs/{name}"] = Path(program).read_bytes()  # not where busybox has its own
        for path in _libraries(Path(program)):
            found[str(path).lstrip("/")] = path.read_bytes()
    found["etc/mke2fs.conf"] = _SETTINGS.read_bytes() if _SETTINGS.exists() else b""
    return found


def drivers_of(kernel: Path) -> Path:
    """The folder of the drivers of a kernel in the cache."""
    return kernel.with_name(kernel.name.replace("vmlinuz-", "drivers-", 1))


def keep_drivers(tree: Path, folder: Path) -> None:
    """Copies the drivers out of an unpacked kernel package.

    Args:
        tree: Where the package was unpacked.
        folder: A new folder, made here.

    Raises:
        MissingPiece: The package has them compressed, or not at all.
    """
    folder.mkdir()
    for name in DRIVERS:
        found = next(tree.glob(f"lib/modules/*/kernel/drivers/*/{name}.ko"), None)
        if found is None:
            raise MissingPiece(f"the kernel package holds no {name}.ko")
        shutil.copyfile(found, folder / f"{name}.ko")


def make_disk(path: Path) -> None:
    """Makes an empty disk image.

    Args:
        path: A file that is not there; qcow2 where its name ends so, else raw.
    """
    with path.open("xb") as file:
        if path.suffix == ".qcow2":
            file.write(_empty_qcow2(DISK_BYTES))
        else:
            file.truncate(DISK_BYTES)
    path.chmod(0o600)


def _libraries(program: Path) -> list[Path]:
    asked = [str(_LOADER), "--list", str(program)]
    try:
        said = subprocess.run(
            asked, capture_output=True, text=True, timeout=_QUESTION_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingPiece(f"{program}: its libraries cannot be listed: {error}") from error
    return [_LOADER, *map(Path, re.findall(r"=> (/\S+)", said.stdout))]


def _empty_qcow2(size_bytes: int) -> bytes:
    """An image of version 2 with clusters of 64 KiB: header, refcounts, one block of them, L1.

    Source: QEMU, docs/interop/qcow2.txt.
    """
    cluster = 1 << 16
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 2, 0, 0, 16, size_bytes, 0),  # no backing file, no encryption
        *(1, 3 * cluster),  # one entry of L1, and where it is
        *(cluster, 1, 0, 0),  # the table of refcounts; no snapshots
    )
    table = struct.pack(">Q", 2 * cluster)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    parts = (header, table, counts, b"")
    return b"".join(part.ljust(cluster, b"\0") for part in parts)
