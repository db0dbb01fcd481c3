"""QEMU 10 of Debian 13, beside whatever QEMU this machine has.

apt downloads it with lists, a state and an empty list of installed packages of its own, and it is
unpacked in a folder of the cache: nothing of the machine's packages changes. A small script runs
it with that folder's /usr in the place of /usr, in a mount namespace of its own, so it sees every
other path as we do, and nothing stays mounted. It finds no /bin/sh: URIs with `exec:` fail there.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tools.guest.errors import MissingPiece
from tools.guest.kernel import run_tool

PROGRAM = "qemu-system-x86_64"
_FETCH = "python -m tools.guest fetch --qemu10"
_PACKAGE = "qemu-system-x86"
_RELEASE = "trixie"
_MIRROR = os.environ.get("PAGECHECK_MIRROR", "http://deb.debian.org/debian")
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_KEPT = ("lib", "lib64", f"bin/{PROGRAM}", "share/qemu", "share/seabios")
_QUESTION_S = 30.0

# `exec` all along: the process that was started becomes QEMU.
_SCRIPT: Final = f"""\
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")
[ "$(id -u)" = 0 ] && user= || user=--map-root-user
exec unshare --mount $user sh -c \\
    'mount --bind "$0/usr" /usr && exec /usr/bin/{PROGRAM} "$@"' "$root" "$@"
"""


def locate_qemu10(cache: Path) -> Path:
    """Finds the program that runs QEMU 10.

    Args:
        cache: The folder of what was fetched.

    Returns:
        Its path; its arguments are QEMU's.

    Raises:
        MissingPiece: It was not fetched, or this user may not run it.
    """
    program = cache / "qemu-10" / PROGRAM
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


def fetch_qemu10(cache: Path) -> Path:
    """Downloads QEMU 10 unless the cache has it.

    Args:
        cache: An existing folder; it gets one more, `qemu-10`, of about 100 MB.

    Returns:
        What `locate_qemu10` returns.

    Raises:
        MissingPiece: It cannot be had here.
    """
    if not (cache / "qemu-10").exists():
        _refuse_strange_machines()
        with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as name:
            folder = Path(name)
            _download(folder)
            _unpack(folder)
            (folder / "qemu-10").rename(cache / "qemu-10")  # others see all of it or nothing
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
    (folder / "sources").write_text(f"deb [signed-by={_KEYS}] {_MIRROR} {_RELEASE} main\n")
    for name in ("lists/partial", "archives/partial"):
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
    }
    options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
    hint = f"is {_MIRROR} within reach?"
    run_tool(["apt-get", *options, "-q", "update"], folder, hint)
    run_tool(["apt-get", *options, "-qy", "--download-only", "install", _PACKAGE], folder, hint)


def _unpack(folder: Path) -> None:
    packages = sorted(folder.glob("archives/*.deb"))
    for package in packages:
        run_tool(["dpkg-deb", "-x", str(package), "tree"], folder, "is the disk full?")
    root = folder / "qemu-10"
    for name in _KEPT:
        kept = root / "usr" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / "usr" / name).rename(kept)
    for mounted in root, root / "usr":
        mounted.chmod(0o755)
    script = root / PROGRAM
    script.write_text(_SCRIPT)
    script.chmod(0o755)
