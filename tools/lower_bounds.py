"""Prints setup.cfg's requirements at their lower bounds as lines `name==version`, for `pip -c`."""

from __future__ import annotations

import configparser
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SETUP = Path(__file__).parents[1] / "setup.cfg"


def lower_bounds(text: str, extras: tuple[str, ...] = ("test",)) -> Iterator[str]:
    """The oldest supported version of every dependency.

    Args:
        text: of a setup.cfg.
        extras: those whose dependencies count, too.

    Raises:
        ValueError: a dependency has no lower bound, so that its oldest version is unknown.
    """
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    lists = [parser["options"]["install_requires"]]
    lists += [parser["options.extras_require"][extra] for extra in extras]
    for line in "\n".join(lists).split("\n"):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*([\w.-]+)\s*(?:>=|~=|==)\s*([\d.]+)\s*", line)
        if found is None:
            raise ValueError(f"setup.cfg: {line.strip()!r} has no lower bound")
        yield f"{found[1]}=={found[2]}"


def oldest_python(text: str) -> str:
    """The oldest supported Python, such as `3.11`."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(text)
    return parser["options"]["python_requires"].strip().removeprefix(">=")


if __name__ == "__main__":
    given = SETUP.read_text()
    print(oldest_python(given) if sys.argv[1:] == ["python"] else "\n".join(lower_bounds(given)))
