"""Modules beside the package never take the place of the standard library's in our children."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pagecheck

POISON = "raise SystemExit('a module of site-packages came before the standard library')\n"
STANDARD = ("json", "select", "socket", "contextlib", "subprocess", "asyncio", "array", "signal")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder like site-packages: our package, and modules that call themselves as standard ones
    do (backports of old)."""
    home = tmp_path / "site-packages"
    skip = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
    shutil.copytree(Path(pagecheck.__file__).parent, home / "pagecheck", ignore=skip)
    for name in STANDARD:
        (home / f"{name}.py").write_text(POISON)
    return home


def run(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.append({os.fspath(site)!r}); {code}"
    paths = [path for path in sys.path if "site-packages" in path]  # dependencies
    program = f"import sys; sys.path += {paths!r}; {program}"
    return subprocess.run(
        [sys.executable, "-S", "-P", "-c", program], capture_output=True, text=True, timeout=60
    )


def test_worker(site: Path, tmp_path: Path):
    (tmp_path / "ram").write_bytes(bytes(4096) + b"x" * 4096)
    code = f"import pagecheck; r = pagecheck.scan({str(tmp_path / 'ram')!r}); print(r.total.zero)"
    done = run(site, f"import pagecheck; print(pagecheck.__file__); {code}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "pagecheck" / "__init__.py"), "1"]


def test_watchdog(site: Path, tmp_path: Path):
    """It starts, and says itself that nobody listens on the socket."""
    code = (
        "from pagecheck.vmm.hold.pause import QemuMonitor\n"
        f"try: QemuMonitor({str(tmp_path / 'none')!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = run(site, f"exec({code!r})")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("SourceError"), done.stdout
