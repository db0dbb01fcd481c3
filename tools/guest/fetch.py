"""Finds the three files that a guest is made of, and fetches the one that can be fetched.

`locate` never uses the network, so a test that calls it either runs at once or learns what is
missing.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools.guest.disk import disk_programs, drivers_of
from tools.guest.errors import MissingPiece
from tools.guest.initramfs import INSTALL, build_initramfs, static_busybox
from tools.guest.kernel import download_kernel, newest_kernel
from tools.guest.trixie import arm_busybox, arm_kernel, locate_qemu10

CACHE_VARIABLE = "PAGECHECK_GUEST_CACHE"

_BOOT = Path("/boot")


@dataclass(frozen=True)
class GuestFiles:
    """The paths that a boot needs."""

    qemu: Path
    kernel: Path
    initramfs: Path


def cache_folder() -> Path:
    """Makes sure that there is a folder for what was fetched or built.

    Returns:
        The folder named by PAGECHECK_GUEST_CACHE, or else `.cache/guest` in the root of the
        repository; git does not see what is in it.
    """
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / ".cache" / "guest"
    folder.mkdir(parents=True, exist_ok=True)
    unseen = folder / ".gitignore"
    if not unseen.exists():
        unseen.write_text("*\n")
    return folder.absolute()


def locate(*, machine: str = "", disk: bool = False, qemu: str = "") -> GuestFiles:
    """Finds everything on this machine, and builds the initramfs if it is not up to date.

    Args:
        machine: "virt" for a guest on ARM, which QEMU 10 runs.
        disk: whether the initramfs is to serve a guest with a disk.
        qemu: "10" for the QEMU 10 that was fetched; else the one in PATH.

    Returns:
        The files of a guest; a kernel in the cache goes before one in /boot.

    Raises:
        MissingPiece: QEMU, a static busybox or a kernel is not there.
    """
    cache = cache_folder()
    if machine == "virt":
        program = locate_qemu10(cache, "aarch64")
        return GuestFiles(program, arm_kernel(cache), build_initramfs(cache, arm_busybox(cache)))
    program = locate_qemu10(cache) if qemu == "10" else _installed_qemu()
    busybox = static_busybox()
    kernel = newest_kernel(cache) or newest_kernel(_BOOT)
    if kernel is None:
        raise MissingPiece(
            f"no guest kernel in {cache} and no readable one in {_BOOT}; "
            "run python -m tools.guest fetch"
        )
    more = disk_programs(kernel) if disk else {}
    return GuestFiles(program, kernel, build_initramfs(cache, busybox, more))


def _installed_qemu() -> Path:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise MissingPiece(f"no qemu-system-x86_64 in PATH; {INSTALL}")
    return Path(qemu)


def fetch() -> GuestFiles:
    """Downloads a kernel and its drivers unless the cache has them, then does what `locate` does.

    A kernel in /boot serves only if the download fails: the downloaded one is known to work.

    Returns:
        The files of a guest.

    Raises:
        MissingPiece: Something is not there and cannot be had without root.
    """
    cache = cache_folder()
    kernel = newest_kernel(cache)
    if kernel is None or not drivers_of(kernel).exists():
        try:
            download_kernel(cache)
        except MissingPiece:
            if kernel is None and newest_kernel(_BOOT) is None:
                raise
    return locate()
