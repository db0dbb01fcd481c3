"""QEMU 10 of Debian 13, beside whatever QEMU this machine has, and what a guest on ARM is made of.

apt downloads it with lists, a state and an empty list of installed packages of its own, and it is
unpacked in a folder of the cache: nothing of the machine's packages changes. A small script runs
it with that folder's /usr in the place of /usr, in a mount namespace of its own, so it sees every
other path as we do, and nothing stays mounted. It finds no /bin/sh: URIs with `exec:` fail there.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tools.guest.errors import MissingPiece
from tools.guest.kernel import run_tool

_FETCH = "python -m tools.guest fetch --qemu10"
_FOLDER = "trixie"
_PACKAGES = ("qemu-system-x86", "qemu-system-arm")
_ARM_KERNEL = "linux-image-cloud-arm64"
_MIRROR = os.environ.get("PAGECHECK_MIRROR", "http://deb.debian.org/debian")
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PROGRAMS = ("qemu-system-x86_64", "qemu-system-aarch64")
_KEPT = ("lib", "lib64", *(f"bin/{name}" for name in _PROGRAMS), "share/qemu", "share/seabios")
_QUESTION_S = 30.0

# `exec` all along: the process that was started becomes QEMU.
_SCRIPT: Final = """\
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
[ "$(id -u)" = 0 ] && user= || user=--map-root-user
exec unshare --mount $user sh -c \\
    'mount --bind "$0/usr" /usr && program=$1 && shift && exec "/usr/bin/$program" "$@"' \\
    "$root" "$(basename "$0")" "$@"
"""


def locate_qemu10(cache: Path, architecture: str = "x86_64") -> Path:
    """Finds the program that runs QEMU 10.

    Args:
        cache: The folder of what was fetched.
        architecture: "x86_64" or "aarch64".

    Returns:
        Its path; its arguments are QEMU's.

    Raises:
        MissingPiece: It was not fetched, or this user may not run it.
    """
    program = cache / _FOLDER / f"qemu-system-{architecture}"
    if not program.exists():
        raise MissingPiece(f"no QEMU 10 in {cache}; run {_FETCH}")
    asked = subprocess.run(
        [str(program), "--version"],
        capture_output=True,
        text=True,
        timeout=_QUESTION_S,
        check=False,
    )
    if "version 10." not in asked.stdout:
        raise MissingPiece(f"{program}: cannot run: {asked.stderr.strip()}; be root")
    return program


def arm_kernel(cache: Path) -> Path:
    """The kernel of a guest on ARM; there if QEMU 10 is."""
    return cache / _FOLDER / "arm" / "vmlinuz"


def arm_busybox(cache: Path) -> bytes:
    """The static busybox of a guest on ARM; there if QEMU 10 is."""
    return (cache / _FOLDER / "arm" / "busybox").read_bytes()


def fetch_qemu10(cache: Path) -> Path:
    """Downloads all of it unless the cache has it.

    Args:
        cache: An existing folder; it gets one more, of about 180 MB.

    Returns:
        What `locate_qemu10` returns.

    Raises:
        MissingPiece: It cannot be had here.
    """
    if not (cache / _FOLDER).exists():
        _refuse_strange_machines()
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as name:
            folder = Path(name)
            _download(folder)
            _unpack(folder)
            (folder / "root").rename(cache / _FOLDER)  # others see all of it or nothing
    return locate_qemu10(cache)


def _refuse_strange_machines() -> None:
    for tool in ("apt-get", "dpkg-deb", "unshare"):
        if shutil.which(tool) is None:
            raise MissingPiece(f"no {tool}, so QEMU 10 cannot be downloaded here")
    if not _KEYS.exists():
        raise MissingPiece(f"no {_KEYS}; apt-get install debian-archive-keyring")
    if Path("/lib64").resolve() != Path("/usr/lib64"):
        raise MissingPiece("QEMU 10 needs a machine whose /lib64 is /usr/lib64")


def _download(folder: Path) -> None:
    (folder / "status").touch()
    (folder / "sources").write_text(
        f"deb [arch=amd64,arm64 signed-by={_KEYS}] {_MIRROR} trixie main\n"
    )
    for name in ("lists/partial", "archives/partial", "arm"):
        (folder / name).mkdir(parents=True)
    settings = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Cache::archives": folder / "archives",
        "Dir::Etc::sourcelist": folder / "sources",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "",  # else it must be able to enter the folder
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Update::Error-Mode": "any",  # no list is a failure
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    lines.append('APT::Architectures { "amd64"; "arm64"; };')
    (folder / "apt.conf").write_text("\n".join(lines) + "\n")
    options = ["-q", "-c", str(folder / "apt.conf")]
    hint = f"is {_MIRROR} within reach?"
    run_tool(["apt-get", *options, "update"], folder, hint)
    run_tool(["apt-get", *options, "-y", "--download-only", "install", *_PACKAGES], folder, hint)
    kernel = run_tool(["apt-cache", *options, "depends", f"{_ARM_KERNEL}:arm64"], folder, hint)
    found = re.search(r"Depends: (linux-image-\d\S*)", kernel)
    if found is None:
        raise MissingPiece(f"apt knows no {_ARM_KERNEL} for arm64; {hint}")
    wanted = [found[1], "busybox-static:arm64"]
    run_tool(["apt-get", *options, "download", *wanted], folder / "arm", hint)


def _unpack(folder: Path) -> None:
    root = folder / "root"
    for tree, packages in ("tree", "archives"), ("arm-tree", "arm"):
        for package in sorted((folder / packages).glob("*.deb")):
            run_tool(["dpkg-deb", "-x", str(package), tree], folder, "is the disk full?")
    for name in _KEPT:
        _move(folder / "tree" / "usr" / name, root / "usr" / name)
    (kernel,) = (folder / "arm-tree" / "boot").glob("vmlinuz-*")
    kernel.chmod(0o644)
    _move(kernel, root / "arm" / "vmlinuz")
    _move(folder / "arm-tree" / "usr" / "bin" / "busybox", root / "arm" / "busybox")
    root.chmod(0o755)
    for name in _PROGRAMS:
        (root / name).write_text(_SCRIPT)
        (root / name).chmod(0o755)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
