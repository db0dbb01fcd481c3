"""Shared by several commands: exit codes, sizes, and options that are declared once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.sizes import parse_size
from pagecheck.hw.wq import parse as parse_queue

EXIT_CODES = """
\b
Exit codes:
  0    every page was decided
  1    the scan ran, but pages stayed undecided
       (deadline, a truncated file, a batch set aside)
  2    an invalid request
  3    the engine or kernel is not supported, a system call is forbidden,
       too few workers start, or the service or QEMU does not answer
       correctly
  4    a shortage (/dev/shm, memory, open files, processes, file size),
       a limit of the service, or a bug in pagecheck
  5    a snapshot is damaged, not whole, or of an unknown version
  130  interrupted (SIGINT)       143  terminated (SIGTERM)
  129  hung up (SIGHUP)           141  output pipe closed (SIGPIPE)
"""

if TYPE_CHECKING:  # it is generic for type checkers, and in click 8.4 and later
    _IntParam = click.ParamType[int]
else:
    _IntParam = click.ParamType


class Size(_IntParam):
    """Bytes, with K, M, G or T (also KiB and so on) for powers of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses the text of an option."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()


def _checked(_context: click.Context, _option: click.Parameter, queues: Any) -> Any:
    for queue in queues:
        parse_queue(queue)
    return queues


ENGINE: Final = (
    click.Option(
        ["--engine"],
        type=click.Choice(["auto", "dsa", "cpu", "none"]),
        default="auto",
        show_default=True,
        help="What decides a page. auto: dsa where a work queue can be used, else cpu. none: every "
        "page is normal and nothing is read.",
    ),
    click.Option(
        ["--wq"],
        multiple=True,
        callback=_checked,
        metavar="QUEUE",
        help="A DSA work queue such as /dev/dsa/wq0.0, or 'model:' for a software device. Repeat "
        "it for several: channels take them round robin. Default: those that 'pagecheck devices' "
        "finds.",
    ),
    click.Option(
        ["--fallback"],
        is_flag=True,
        help="With --engine dsa: use the CPU where no queue can be used.",
    ),
    click.Option(["--kernel"], metavar="NAME", help="CPU kernel; see 'pagecheck kernels'."),
    click.Option(["--nice"], type=int, default=0, help="Added to the workers' nice value."),
    click.Option(
        ["--stall"],
        type=float,
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="A worker that makes no progress this long is replaced.",
    ),
)


PAGE_SIZE: Final = click.Option(
    ["--page-size"], type=SIZE, default="4K", show_default=True, help="Bytes per page."
)
HOLES: Final = click.Option(
    ["--holes"],
    type=click.Choice(["trust", "read"]),
    default="trust",
    show_default=True,
    help="read: read the pages even where the file system reports a hole.",
)
MAX_RATE: Final = click.Option(
    ["--max-rate"], type=SIZE, metavar="BYTES/S", help="Read no faster than this."
)


def complete_folder(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[Any]:
    """Folders that the argument of a command can be."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


QUIET: Final = click.Option(["--quiet"], is_flag=True, help="Print nothing but errors.")
JSON_ONLY: Final = click.Option(
    ["--json", "as_json"], is_flag=True, help="Print the report as JSON only."
)


def directory_and_command(metavar: str) -> tuple[click.Argument, click.Argument]:
    """A snapshot's directory and QEMU's command, which is called so in the help."""
    return (
        click.Argument(["directory"], metavar="DIR"),
        click.Argument(["command"], nargs=-1, type=click.UNPROCESSED, metavar=metavar),
    )


def channels(text: str) -> click.Option:
    """--channels, with this command's help text."""
    return click.Option(["--channels"], type=int, metavar="N", help=text)


def via(text: str) -> tuple[click.Option, click.Option]:
    """--via, with this command's help text, and --via-uid."""
    return (
        click.Option(["--via"], type=str, metavar="SOCKET", help=text),
        click.Option(
            ["--via-uid"],
            type=click.IntRange(0),
            metavar="UID",
            help="The user that the service of --via runs as, where that is neither root nor you.",
        ),
    )


def max_pause(text: str) -> click.Option:
    """--max-pause, with this command's help text."""
    return click.Option(
        ["--max-pause"],
        type=float,
        default=5.0,
        show_default=True,
        metavar="SECONDS",
        help=text,
    )


def verbose(text: str) -> click.Option:
    """-v, with this command's help text."""
    return click.Option(["-v", "--verbose"], is_flag=True, help=text)
