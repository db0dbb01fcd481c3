"""What setup.cfg promises can be tried at its lower end: `tools/bounds oldest` does."""

import re

import pytest

from tools.lower_bounds import SETUP, lower_bounds, oldest_python

TEXT = """
[options]
python_requires = >=3.11
install_requires =
    click>=8.1.3
    {line}
[options.extras_require]
test =
    pytest ~= 7.4
dev =
    ruff
"""


def test_of_every_dependency() -> None:
    found = list(lower_bounds(TEXT.format(line="qemu.qmp>=0.0.3")))
    assert found == ["click==8.1.3", "qemu.qmp==0.0.3", "pytest==7.4"]
    assert oldest_python(TEXT.format(line="")) == "3.11"


@pytest.mark.parametrize("line", ["numpy", "numpy<3", "numpy>1"])
def test_without_a_lower_bound(line: str) -> None:
    with pytest.raises(ValueError, match=r"'numpy.*' has no lower bound"):
        list(lower_bounds(TEXT.format(line=line)))


def test_our_own() -> None:
    text = SETUP.read_text()
    assert re.fullmatch(r"3\.\d+", oldest_python(text))
    assert {"click", "numpy", "pytest"} <= {line.split("==")[0] for line in lower_bounds(text)}
