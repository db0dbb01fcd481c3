"""Ordinary command lines, read without click, which would take a third of a small scan's time.

Danger: two readers of one command line that disagree.
Decision: what is read here is only `--version` and a `scan` whose every word is understood and
valid beyond doubt; all else, every mistake and every rare option among it, is click's, which finds
what is wrong and says so. The options are declared in `scan_options.py`; here is how their values
are written, and a test compares what the two make of a command line.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

_DIGITS_MAX: Final = 9


def run(arguments: list[str]) -> int | None:
    """Runs the command line if it is an ordinary one.

    Returns:
        The exit code; None: nothing was done, it is click's to read.

    Raises:
        OSError: what it printed could not be written.
    """
    if arguments == ["--version"]:
        from pagecheck._version import __version__

        print(f"pagecheck, version {__version__}")
        return 0
    if arguments[:1] != ["scan"] or (read := read_scan(arguments[1:])) is None:
        return None
    source, options = read
    from pagecheck.cli.outcome import outcome

    return outcome(lambda: _scan(source, options), as_json=bool(options.get("as_json")))


def _scan(source: str, options: dict[str, Any]) -> int:
    from pagecheck.cli.perform import Shown, perform
    from pagecheck.oneshot import scan

    names = ("ranges", "as_json", "quiet", "verbose")
    shown = Shown(**{name: bool(options.pop(name, False)) for name in names})
    return perform(scan, source, options, shown)


def read_scan(words: list[str]) -> tuple[str, dict[str, Any]] | None:
    """The source and the options that were given, by the names that click has for them.

    Args:
        words: what follows `scan`.

    Returns:
        None where it is not an ordinary command line.
    """
    sources: list[str] = []
    options: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            sources.append(word)
            continue
        option, equals, value = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        name = _NAMES.get(option, name)
        if name in options:
            return None
        if option in FLAGS and not equals:
            options[name] = True
        elif option in VALUES:
            value = value if equals else next(left, "-")
            try:
                options[name] = VALUES[option](value)
            except ValueError:
                return None
        else:
            return None
    if len(sources) != 1 or not sources[0] or {"ranges", "as_json"} <= options.keys():
        return None
    return sources[0], options


def _text(text: str) -> str:
    if not text or text.startswith("-"):
        raise ValueError
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise ValueError
    return int(text)


def _seconds(text: str) -> float:
    if len(text) > _DIGITS_MAX or not text.replace(".", "", 1).isdigit() or not text.isascii():
        raise ValueError
    return float(text)


def _size(text: str) -> int:
    from pagecheck.cli.sizes import parse_size

    return parse_size(text)


def _one_of(*choices: str) -> Callable[[str], str]:
    def choose(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return choose


_NAMES: Final = {"--json": "as_json", "-v": "verbose"}
FLAGS: Final = {"--fallback", "--ranges", "--json", "--quiet", "--verbose", "-v"}
VALUES: Final[dict[str, Callable[[str], Any]]] = {
    "--engine": _one_of("auto", "dsa", "cpu", "none"),
    "--kernel": _text,
    "--nice": _count,
    "--stall": _seconds,
    "--channels": _count,
    "--batch-pages": _count,
    "--page-size": _size,
    "--offset": _size,
    "--length": _size,
    "--kind": _one_of("full", "diff"),
    "--holes": _one_of("trust", "read"),
    "--format": _one_of("auto", "raw"),
    "--max-rate": _size,
    "--deadline": _seconds,
    "--out": _text,
}
