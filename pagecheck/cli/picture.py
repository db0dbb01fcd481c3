"""`pagecheck picture`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from pagecheck.cli.options import EXIT_CODES, JSON_ONLY, QUIET, verbose
from pagecheck.cli.scan import complete, scanner
from pagecheck.cli.scan_options import PAGES, VIA, VM, WORKERS
from pagecheck.cli.streams import log_to_stderr, require_reader
from pagecheck.cli.via import is_default
from pagecheck.cli.working import with_progress

if TYPE_CHECKING:
    from pagecheck.picture.cells import Cells
    from pagecheck.picture.memory import Memory

PNG_CELLS: Final = 1 << 18
PRINT_CELLS: Final = 1 << 14
JSON_CELLS: Final = 1 << 12
CELLS_MAX: Final = 1 << 20
_LEFT_OUT: Final = {"gpa", "leave_stopped"}  # addresses are shown where they are known
_SCAN: Final = (*WORKERS, *PAGES, *(each for each in VM if each.name not in _LEFT_OUT), *VIA)

_OPTIONS: Final = (
    click.Option(
        ["-o", "--output"],
        metavar="FILE",
        help="Write the picture there: NAME.png or NAME.html. It replaces an earlier picture, and "
        "nothing else.",
    ),
    click.Option(
        ["--compare"],
        nargs=2,
        metavar="A B",
        help="Show what became zero and what became normal from A to B, in place of SOURCE.",
    ),
    click.Option(
        ["--content"],
        is_flag=True,
        help="With --compare: also read the pages that are normal in both, and tell which changed. "
        "Files and snapshots only.",
    ),
    click.Option(
        ["--layout"],
        type=click.Choice(["hilbert", "rows"]),
        help="hilbert: what is near in memory is near in the picture. rows: addresses grow to the "
        "right, and downwards. Default: hilbert; rows in the terminal.",
    ),
    click.Option(
        ["--cells"],
        type=click.IntRange(1, CELLS_MAX),
        metavar="N",
        help="Cells at most; each is a power of two of pages. Default: 262144 in a PNG, 16384 in "
        "print, 4096 in JSON, as many as fit in the terminal. HTML has single pages where its "
        "size permits.",
    ),
    click.Option(
        ["--theme"],
        type=click.Choice(["auto", "light", "dark"]),
        default="auto",
        show_default=True,
        help="The ground. auto: light in a PNG, as the reader's system has it in HTML, as "
        "COLORFGBG says in the terminal.",
    ),
    click.Option(
        ["--print", "in_print"],
        is_flag=True,
        help="A PNG with patterns in black, grey and white, for a printer.",
    ),
    *_SCAN,
    JSON_ONLY,
    QUIET,
    verbose("Log progress to stderr."),
)


@click.command(
    params=[click.Argument(["source"], required=False, shell_complete=complete), *_OPTIONS],
    epilog=EXIT_CODES,
    short_help="Show where a memory's zero and normal pages lie.",
)
def picture(
    source: str | None,
    *,
    output: str | None,
    compare: tuple[str, str] | None,
    content: bool,
    layout: str | None,
    cells: int | None,
    theme: str,
    in_print: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> int:
    """Show where the zero, normal and undecided pages of a memory lie.

    SOURCE is what pagecheck scan takes, which is scanned, or a directory: of a snapshot that
    pagecheck save made, or of the bitmaps of pagecheck scan --out. Directories are not scanned.

    Each cell of the picture is a run of pages. It has the colour of what is not zero in it, however
    little that is. Where guest-physical addresses are known they are at the edges. Without -o the
    picture is printed: in colour on a terminal, as letters elsewhere.

    \b
    Examples:
      pagecheck picture guest.ram
      pagecheck picture -o map.html qmp:/run/vm1.qmp
      pagecheck picture -o map.png --layout rows /snapshots/vm1
      pagecheck picture -o map.png --print guest.ram
      pagecheck picture --compare /snapshots/monday /snapshots/tuesday -o changes.html
      pagecheck picture --json --cells 256 guest.ram
    """
    from pagecheck.picture.output import PictureFile, form_of

    sources = _sources(source, compare, options)
    directories = _directories(sources)
    if content and compare is None:
        raise click.UsageError("--content goes with --compare")
    form = None if output is None else form_of(output)
    if in_print and form != "png":
        raise click.UsageError("--print is for a PNG: give -o NAME.png")
    if form == "png":
        from pagecheck.picture.drawing import require_pillow

        require_pillow()
    if form is None or as_json:
        require_reader()
    log_to_stderr(verbose=verbose)
    if output is None:
        memory = _memory(sources, directories, options, content=content, quiet=quiet)
    else:
        with PictureFile(output) as file:
            memory = _memory(sources, directories, options, content=content, quiet=quiet)
            file.write(_drawn(memory, str(form), layout, cells, theme, in_print=in_print))
    if as_json:
        _print_json(memory, cells or JSON_CELLS)
    elif output is None:
        _print_picture(memory, layout, cells, theme)
    elif not quiet:
        _print_counts(output, memory)
    return 1 if _undecided(memory) else 0


def _sources(
    source: str | None, compare: tuple[str, str] | None, options: dict[str, Any]
) -> tuple[str, ...]:
    """What is shown: one source, or two that are compared."""
    if (source is None) == (compare is None):
        raise click.UsageError("give a SOURCE, or two with --compare")
    if compare is not None and options["kind"] == "diff":
        raise click.UsageError(
            "--kind diff does not go with --compare: a diff has only the pages that changed"
        )
    return compare or (source or "",)


def _directories(sources: tuple[str, ...]) -> set[str]:
    """Which of the sources are directories.

    Raises:
        UsageError: all are, and an option is for a scan.
    """
    from pagecheck.picture.sources import is_directory

    directories = {each for each in sources if is_directory(each)}
    if directories.issuperset(sources):
        for option in _SCAN:
            if not is_default(option.name or ""):
                raise click.UsageError(
                    f"{option.opts[0]} is for a scan, and a directory is not scanned; drop it"
                )
    return directories


def _memory(
    sources: tuple[str, ...],
    directories: set[str],
    options: dict[str, Any],
    *,
    content: bool,
    quiet: bool,
) -> Memory:
    from pagecheck.picture.memory import compare
    from pagecheck.picture.sources import of_directory, of_scan

    given = dict(options)
    run = scanner(given.pop("via"), given.pop("via_uid"), given)

    def memory(source: str) -> Memory:
        if source in directories:
            return of_directory(source)
        return with_progress(
            lambda progress: of_scan(source, run, {**given, "progress": progress}),
            "scanning",
            quiet=quiet,
        )

    found = [memory(each) for each in sources]
    if len(found) == 1:
        return found[0]
    changes = compare(*found)
    return _with_content(sources, found, changes, options, quiet=quiet) if content else changes


def _with_content(
    sources: tuple[str, ...],
    found: list[Memory],
    changes: Memory,
    options: dict[str, Any],
    *,
    quiet: bool,
) -> Memory:
    from pagecheck.picture.content import Contents, with_content

    start, rate = options["offset"], options["max_rate"]
    (one, other), (before, after) = sources, found
    with Contents(one, before, start) as old, Contents(other, after, start) as new:
        return with_progress(
            lambda progress: with_content(
                (before, old), (after, new), changes, max_rate=rate, progress=progress
            ),
            "comparing",
            quiet=quiet,
        )


def _cells(memory: Memory, most: int) -> Cells:
    from pagecheck.picture.cells import cells_of

    return cells_of(memory, most)


def _drawn(
    memory: Memory,
    form: str,
    layout: Any,
    cells: int | None,
    theme: str,
    *,
    in_print: bool,
) -> bytes:
    if form == "html":
        from pagecheck.picture.page import html

        dark = None if theme == "auto" else theme == "dark"
        return html(memory, layout=layout or "hilbert", dark=dark).encode()
    from pagecheck.picture.drawing import png
    from pagecheck.picture.layout import laid_out

    found = _cells(memory, cells or (PRINT_CELLS if in_print else PNG_CELLS))
    place = laid_out(found, layout or "hilbert")
    return png(found, place, dark=theme == "dark", in_print=in_print)


def _print_json(memory: Memory, most: int) -> None:
    import json

    print(json.dumps(_cells(memory, most).to_json()))


def _print_picture(memory: Memory, layout: Any, cells: int | None, theme: str) -> None:
    from pagecheck.picture.terminal import screen_of, show

    dark = None if theme == "auto" else theme == "dark"
    screen = screen_of(sys.stdout, dark=dark)
    for line in show(memory, screen, layout or "rows", cells):
        print(line)


def _print_counts(output: str, memory: Memory) -> None:
    from pagecheck.picture import words
    from pagecheck.printable import printable

    print(printable(f"{os.path.basename(output)}: {words.title(memory)}"))
    for line in words.counts(memory).values():
        print(line)


def _undecided(memory: Memory) -> int:
    from pagecheck.picture.memory import undecided_of

    return memory.counts[undecided_of(memory.states)]
