"""Finds a stock x86-64 kernel, or has apt download one.

Nothing is installed: the package is downloaded and unpacked in a folder of the cache, which
needs no root.
"""

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tools.guest.disk import drivers_of, keep_drivers
from tools.guest.errors import MissingPiece

# Debian's first. The cloud and virtual flavours are small; all of them have the serial
# console, tmpfs, ext4 and the initramfs built in, so a guest without a disk needs no modules.
_METAPACKAGES = (
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-kvm",
    "linux-image-generic",
    "linux-image-amd64",
)
_ENGLISH = {**os.environ, "LC_ALL": "C"}  # the word "Depends" is translated
_QUESTION_S = 60.0
_DOWNLOAD_S = 300.0


def newest_kernel(folder: Path) -> Path | None:
    """Picks the kernel with the highest version among those that this user may read.

    Args:
        folder: Where to look for `vmlinuz-*`; it need not exist.

    Returns:
        The path of an x86 boot image, or None.
    """
    kernels = [path for path in folder.glob("vmlinuz-*") if _is_boot_image(path)]
    return max(kernels, key=_version, default=None)


def download_kernel(cache: Path) -> None:
    """Downloads the newest kernel that apt knows and keeps its boot image and the disk's drivers.

    Args:
        cache: An existing folder; it gets one more `vmlinuz-*`, and `drivers-*` where the package
            has them.

    Raises:
        MissingPiece: There is no apt, it knows no kernel, or the download failed.
    """
    if shutil.which("apt-get") is None:
        raise MissingPiece(f"no apt-get to download a kernel; put an x86-64 vmlinuz-* in {cache}")
    package = _newest_package()
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as name:
        folder = Path(name)
        run_tool(["apt-get", "download", package], folder, "try apt-get update first")
        archives = [str(path) for path in folder.glob("*.deb")]
        run_tool(["dpkg", "-x", *archives, "tree"], folder, "is the disk full?")
        kernel = newest_kernel(folder / "tree" / "boot")
        if kernel is None:
            raise MissingPiece(f"package {package} holds no boot/vmlinuz-*")
        _keep_drivers(folder, cache / drivers_of(kernel).name)
        kernel.chmod(0o644)  # a cache may serve several users
        kernel.replace(cache / kernel.name)  # readers see all of it or nothing


def _keep_drivers(folder: Path, kept: Path) -> None:
    """Before the kernel, whose presence tells the next fetch that nothing is missing."""
    if not kept.exists():
        with suppress(MissingPiece):  # a boot with a disk says what is missing
            keep_drivers(folder / "tree", folder / "drivers")
        (folder / "drivers").rename(kept)


def _newest_package() -> str:
    """Asks apt which versioned package the metapackages, which hold no kernel, depend on."""
    for metapackage in _METAPACKAGES:
        answer = subprocess.run(
            ["apt-cache", "depends", metapackage],
            env=_ENGLISH,
            capture_output=True,
            text=True,
            timeout=_QUESTION_S,
            check=False,
        )
        found = re.search(r"^[ |]*Depends: (linux-image-\d\S*)$", answer.stdout, re.MULTILINE)
        if found:
            return found[1]
    raise MissingPiece("apt knows no kernel package; run apt-get update")


def run_tool(command: list[str], folder: Path, hint: str) -> str:
    """Runs a command that makes or fetches something.

    Args:
        command: Its words.
        folder: Where it runs.
        hint: What the user can do if it fails.

    Returns:
        What it printed.

    Raises:
        MissingPiece: It failed, with its last line, or took too long.
    """
    said = " ".join(command)
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_ENGLISH,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise MissingPiece(f"{said}: not done after {late.timeout:g} s; {hint}") from late
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise MissingPiece(f"{said}: status {done.returncode}: {last}; {hint}")
    return done.stdout


def _version(kernel: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", kernel.name)]


def _is_boot_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(0x202)  # the setup header's magic; Linux, Documentation/arch/x86/boot.rst
            return file.read(4) == b"HdrS"
    except OSError:  # Ubuntu lets only root read /boot/vmlinuz-*
        return False
