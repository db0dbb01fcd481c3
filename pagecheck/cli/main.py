"""The command line: parses, calls, prints, exits.

This file has the group; each command is a file of its own, and `outcome.py` is how they end.
`plain.py` reads ordinary command lines, without click.
"""

from __future__ import annotations

import os

import click

from pagecheck._version import __version__
from pagecheck.cli.clone import clone
from pagecheck.cli.hardware import devices, kernels
from pagecheck.cli.info import info
from pagecheck.cli.options import EXIT_CODES
from pagecheck.cli.outcome import outcome
from pagecheck.cli.picture import picture
from pagecheck.cli.punch import punch
from pagecheck.cli.restore import restore
from pagecheck.cli.save import save
from pagecheck.cli.scan import scan
from pagecheck.cli.selftest import selftest
from pagecheck.cli.serve import serve
from pagecheck.cli.status import status
from pagecheck.cli.survey import survey
from pagecheck.cli.verify import verify
from pagecheck.cli.vms import vms
from pagecheck.errors import EngineError, UsageError


def _print_includes(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """For compilers: where pagecheck.h is."""
    if wanted and not context.resilient_parsing:
        from pagecheck.include import folder

        click.echo(f"-I{folder()}")
        context.exit()


def _print_libs(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """For linkers: where libpagecheck is."""
    if wanted and not context.resilient_parsing:
        from pagecheck.include import library

        folder, name = os.path.split(library())
        if not os.path.exists(library()):
            raise EngineError(
                f"{library()}: does not exist; install pagecheck again, with a compiler"
            )
        click.echo(f"-L{folder} -l:{name} -Wl,-rpath,{folder}")
        context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, prog_name="pagecheck")
@click.option(
    "--includes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_includes,
    help="Print the compiler flag for pagecheck.h and libpagecheck.h and exit.",
)
@click.option(
    "--libs",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_libs,
    help="Print the linker flags for libpagecheck, the same as a shared library, and exit.",
)
def cli() -> None:
    """Finds the zero pages of a virtual machine's RAM."""


for _command in (
    scan,
    save,
    restore,
    clone,
    punch,
    survey,
    verify,
    info,
    picture,
    vms,
    serve,
    status,
    kernels,
    devices,
    selftest,
):
    cli.add_command(_command)


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code.

    Raises:
        OSError: what it printed could not be written.
    """
    return outcome(lambda: _invoke(arguments), as_json="--json" in arguments)


def complete(instruction: str) -> int:
    """Does what a shell asks for to complete words; arguments and result are `completion.run`'s."""
    from pagecheck.cli.completion import run

    return run(cli, instruction)


def _invoke(arguments: list[str]) -> int:
    try:
        # click would turn a closed pipe into exit code 1; the context manager does not.
        with cli.make_context("pagecheck", arguments or ["--help"]) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        raise UsageError(f"{error.format_message()}{_forgotten(error, arguments)}") from error


def _forgotten(error: click.ClickException, arguments: list[str]) -> str:
    """What to add where QEMU's options were taken for ours."""
    command = error.ctx.command if isinstance(error, click.NoSuchOption) and error.ctx else None
    takes_one = command is not None and any(each.name == "command" for each in command.params)
    return " (QEMU's command goes after --)" if takes_one and "--" not in arguments else ""
