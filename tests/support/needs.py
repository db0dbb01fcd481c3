"""What a test needs of the machine: without it it is skipped, or fails where CI installs that."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest


def unavailable(why: str) -> NoReturn:
    """Skips the test; with PAGECHECK_REQUIRE_VM=1 it fails."""
    if os.environ.get("PAGECHECK_REQUIRE_VM") == "1":
        pytest.fail(f"PAGECHECK_REQUIRE_VM=1, but {why}", pytrace=False)
    pytest.skip(why)


def needs_program(name: str, package: str) -> None:
    """The same for a program that is not in PATH."""
    if shutil.which(name) is None:
        unavailable(f"no {name}: apt-get install {package}")


def needs_library(name: str, extra: str) -> None:
    """The same for a library that one of pagecheck's extras brings."""
    if importlib.util.find_spec(name) is None:
        unavailable(f"no {name}: pip install 'pagecheck[{extra}]'")
