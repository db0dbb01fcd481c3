"""docs/python-api.md shows every public name as its source has it."""

import re
import subprocess
import sys

import pytest

import pagecheck
from pagecheck import errors
from tools import python_api

PAGE = python_api.PAGE.read_text()


def test_the_page_is_up_to_date() -> None:
    assert python_api.page() == PAGE, "run make docs"


def test_the_check_tells_a_page_that_is_out_of_date(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("channels: int | None = None", "channels: int = 1", 1))
    command = [sys.executable, "-m", "tools.python_api", "--page", str(page)]
    check = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=60)
    assert check.returncode == 1
    assert "tools.python_api" in check.stderr
    subprocess.run(command, check=True, timeout=60)
    assert page.read_text() == PAGE
    subprocess.run([*command, "--check"], check=True, timeout=60)


@pytest.mark.parametrize("name", sorted(set(pagecheck.__all__) - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert re.search(rf"^### {name}$|^\| `{name}` \|", PAGE, re.MULTILINE)


def test_every_error_is_there_with_its_exit_status() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d) \|", PAGE, re.MULTILINE)
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    ours = [each for each in classes if issubclass(each, errors.PagecheckError)]
    assert rows == [(each.__name__, each.__base__.__name__, str(each.exit_code)) for each in ours]


def test_nothing_is_left_of_how_python_writes_it() -> None:
    assert not re.findall(r"\bself\b|\bcls\b|: '|@property|: Final", PAGE)
    assert not re.findall(r"^_\w+:", PAGE, re.MULTILINE)


def test_every_method_has_a_description() -> None:
    parts = re.split(r"^#{3,4} ", PAGE, flags=re.MULTILINE)[1:]
    bare = [part.split("\n")[0] for part in parts if not re.search(r"```\n\n[`A-Z]", part)]
    assert set(bare) <= {"Coordinator", "Client", "Clones", "RemoteChannel", "Attached", "Block"}
