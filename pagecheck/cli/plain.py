"""Ordinary command lines, read without click, which would take a third of a small scan's time.

Danger: two readers of one command line that disagree.
Decision: what is read here is only `--version`, and a `scan`, `punch`, `restore` or `clone` whose
every word is understood and valid beyond doubt; all else, every mistake and every rare option
among it, is click's, which finds what is wrong and says so. The options are declared beside the
click commands; here is how their values are written, and a test compares what the two make of a
command line.
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
    name, words = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in COMMANDS or (read := read_command(COMMANDS[name], words)) is None:
        return None
    from pagecheck.cli.outcome import outcome

    given, options = read
    perform = _PERFORM[name]
    return outcome(lambda: perform(*given, options), as_json=bool(options.get("as_json")))


def _scan(source: str, options: dict[str, Any]) -> int:
    from pagecheck.cli.perform import Shown, perform
    from pagecheck.oneshot import scan

    names = ("ranges", "as_json", "quiet", "verbose")
    shown = Shown(**{name: bool(options.pop(name, False)) for name in names})
    return perform(scan, source, options, shown)


def _punch(source: str, options: dict[str, Any]) -> int:
    from pagecheck.cli.perform_punch import perform_punch

    return perform_punch(source, **options)


def _restore(directory: str, command: tuple[str, ...], options: dict[str, Any]) -> int:
    from pagecheck.cli.perform_restore import perform_restore

    return perform_restore(directory, command, **options)


def _clone(directory: str, command: tuple[str, ...], options: dict[str, Any]) -> int:
    from pagecheck.cli.perform_clone import perform_clone

    return perform_clone(directory, command, **options)


def read_command(
    command: Command, words: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments and the options that were given, by the names that click has for them.

    Args:
        words: what follows the command's name.

    Returns:
        None where it is not an ordinary command line.
    """
    qemu: list[str] = []
    if command.takes_qemu and "--" in words:
        at = words.index("--")
        words, qemu = words[:at], words[at + 1 :]
    if (read := _read_options(command, words)) is None:
        return None
    arguments, options = read
    if len(arguments) != 1 or not arguments[0] or not command.needs <= options.keys():
        return None
    if any(both <= options.keys() for both in _NOT_BOTH):
        return None
    return ((arguments[0], tuple(qemu)) if command.takes_qemu else (arguments[0],)), options


def _read_options(command: Command, words: list[str]) -> tuple[list[str], dict[str, Any]] | None:
    arguments: list[str] = []
    options: dict[str, Any] = {}
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            arguments.append(word)
            continue
        option, equals, value = word.partition("=")
        if equals and not option.startswith("--"):
            return None  # to click, the value of -n=4 is "=4"
        name = option.removeprefix("--").replace("-", "_")
        name = _NAMES.get(option, name)
        if name in options:
            return None
        if option in command.flags and not equals:
            options[name] = True
        elif option in command.values:
            value = value if equals else next(left, "-")
            try:
                options[name] = command.values[option](value)
            except ValueError:
                return None
        else:
            return None
    return arguments, options


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


def _texts(text: str) -> tuple[str, ...]:
    return (_text(text),)


class Command:
    """How a command's ordinary lines are written.

    Attributes:
        flags: options without a value.
        values: of the others, what reads the value; it raises ValueError.
        needs: names of what must be given.
        takes_qemu: QEMU's command follows after `--`.
    """

    def __init__(
        self,
        flags: set[str],
        values: dict[str, Callable[[str], Any]],
        needs: set[str] | None = None,
        *,
        takes_qemu: bool = False,
    ) -> None:
        self.flags = flags
        self.values = values
        self.needs = needs or set()
        self.takes_qemu = takes_qemu


_NAMES: Final = {"--json": "as_json", "-v": "verbose", "--exec": "execute", "-n": "count"}
_NOT_BOTH: Final = ({"ranges", "as_json"},)
_SHOWN: Final = {"--json", "--quiet", "--verbose", "-v"}
_SCAN: Final = Command(
    {"--fallback", "--ranges", *_SHOWN},
    {
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
    },
)
_PUNCH: Final = Command(
    {"--dry-run", "--nobody-writes", "--trust-path", *_SHOWN},
    {
        "--page-size": _size,
        "--max-pause": _seconds,
        "--max-rate": _size,
        "--format": _one_of("auto", "raw"),
    },
)
_RESTORE: Final = Command(
    {"--onto", "--exec", "--paused", *_SHOWN},
    {"--ram": _texts, "--max-rate": _size, "--channels": _count},
    {"ram"},
    takes_qemu=True,
)
_CLONE: Final = Command(
    {"--paused", *_SHOWN},
    {
        "-n": _count,
        "--count": _count,
        "--disks": _one_of("overlay"),
        "--share": _texts,
        "--qmp-folder": _text,
        "--overlay-folder": _text,
    },
    {"count"},
    takes_qemu=True,
)
COMMANDS: Final = {
    "scan": _SCAN,
    "punch": _PUNCH,
    "restore": _RESTORE,
    "clone": _CLONE,
}
_PERFORM: Final[dict[str, Callable[..., int]]] = {
    "scan": _scan,
    "punch": _punch,
    "restore": _restore,
    "clone": _clone,
}
