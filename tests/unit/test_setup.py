"""What setup.py asks setuptools for, on ordinary and free-threaded Pythons."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools")

ROOT = Path(__file__).parents[2]
ASKED = """
import importlib.machinery, json, sys, sysconfig
free_threaded, suffix = json.loads(sys.argv[1])
known = sysconfig.get_config_var
sysconfig.get_config_var = lambda n: free_threaded if n == "Py_GIL_DISABLED" else known(n)
importlib.machinery.EXTENSION_SUFFIXES.insert(0, suffix)
import setuptools.command.build_ext
from distutils.core import run_setup
from distutils.errors import DistutilsModuleError
distribution = run_setup("setup.py", ["-q"], stop_after="config")
(extension,) = distribution.ext_modules
build = distribution.get_command_obj("build_ext")
build.ensure_finalized()
try:
    wheel = distribution.get_command_obj("bdist_wheel")
    wheel.ensure_finalized()  # refuses a limited API where there is none
    tag = wheel.py_limited_api
except DistutilsModuleError:  # setuptools before 70.1, without the package wheel
    tag = distribution.get_option_dict("bdist_wheel").get("py_limited_api", (0, False))[1]
print(json.dumps([extension.py_limited_api, tag or None, build.get_ext_filename(extension.name)]))
"""


@pytest.mark.parametrize(
    ("free_threaded", "suffix", "limited", "tag"),
    [
        (0, ".abi3.so", True, "cp311"),
        (0, ".abi3-x86_64-linux-gnu.so", True, "cp311"),
        (1, ".cpython-314t-x86_64-linux-gnu.so", False, None),
    ],
)
def test_what_is_built(free_threaded: int, suffix: str, limited: bool, tag: str | None) -> None:
    asked = json.dumps([free_threaded, suffix])
    command = [sys.executable, "-W", "ignore", "-c", ASKED, asked]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout.splitlines()[-1])
    assert answer[:2] == [limited, tag]
    # Every Python looks for this name, whichever it was built with.
    assert answer[2].endswith("/_native.abi3.so") == limited


def test_an_editable_install_is_a_line_in_a_pth_file() -> None:
    """Not a hook that every Python of the environment would load at its start."""
    asked = """
from distutils.core import run_setup
distribution = run_setup("setup.py", ["-q"], stop_after="config")
command = distribution.get_command_obj("editable_wheel")
command.ensure_finalized()
print(type(command._select_strategy("pagecheck", "tag", ".")).__name__)
"""
    command = [sys.executable, "-W", "ignore", "-c", f"import setuptools\n{asked}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1:] == ["_StaticPth"], ran.stderr
