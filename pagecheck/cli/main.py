"""The command line: parses, calls, prints, exits. One line on stderr for every error.

This file has the group and how errors are reported; each command is a file of its own.
"""

from __future__ import annotations

import errno
import json
import os
from typing import Final

import click

from pagecheck._version import __version__
from pagecheck.cli.hardware import devices, kernels
from pagecheck.cli.options import EXIT_CODES
from pagecheck.cli.scan import scan
from pagecheck.cli.serve import serve
from pagecheck.cli.signals import Terminated
from pagecheck.cli.status import status
from pagecheck.cli.streams import say
from pagecheck.errors import EngineError, InternalError, PagecheckError, ResourceError
from pagecheck.printable import printable
from pagecheck.shortage import explain, forbidden, is_forbidden

STALE: Final = (
    "the C helper is older than its sources, and may be the reason: build it again with "
    "'make test' or 'pip install -e .'"
)


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


for _command in (scan, serve, status, kernels, devices):
    cli.add_command(_command)


def _fail(name: str, text: str, code: int, *, as_json: bool) -> int:
    text = printable(" ".join(text.split()))
    if as_json:
        print(json.dumps({"version": 1, "error": {"class": name, "message": text}}))
    say(f"pagecheck: {text}")
    return code


def run_command(arguments: list[str]) -> int:
    """Runs one command line and returns its exit code.

    Raises:
        OSError: what it printed could not be written.
    """
    as_json = "--json" in arguments
    try:
        # click would turn a closed pipe into exit code 1; the context manager does not.
        with cli.make_context("pagecheck", arguments or ["--help"]) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _fail("UsageError", error.format_message(), 2, as_json=as_json)
    except PagecheckError as error:
        text = str(error)
        if isinstance(error, InternalError) and _helper_is_stale():
            text = f"{text}; {STALE}"
        return _fail(type(error).__name__, text, error.exit_code, as_json=as_json)
    except Terminated as error:
        return _fail("Terminated", str(error), error.exit_code, as_json=as_json)
    except ImportError as error:
        if error.name != "pagecheck.native._native":
            return _bug(error, as_json=as_json)
        return _fail(EngineError.__name__, str(error), EngineError.exit_code, as_json=as_json)
    except OSError as error:
        if error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        return _bug(error, as_json=as_json)
    except Exception as error:
        return _bug(error, as_json=as_json)


def _helper_is_stale() -> bool:
    """Whether the C helper is older than its sources, which are there in an editable install only:
    then it is of another pagecheck than the Python around it."""
    from pathlib import Path

    native = Path(__file__).parents[1] / "native"
    try:
        newest = max((path.stat().st_mtime for path in native.glob("*/*.[ch]")), default=0.0)
        built = max((path.stat().st_mtime for path in native.glob("_native*.so")), default=newest)
    except OSError:
        return False
    return built < newest


def _bug(error: Exception, *, as_json: bool) -> int:
    # Only who starts a process knows that EAGAIN means a limit on processes.
    shortage = None if isinstance(error, BlockingIOError) else explain(error)
    if shortage is not None:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        text = f"{where}{shortage}"
        return _fail(ResourceError.__name__, text, ResourceError.exit_code, as_json=as_json)
    if is_forbidden(error) and not os.environ.get("PAGECHECK_DEBUG"):
        assert isinstance(error, OSError)
        text = forbidden("a system call (PAGECHECK_DEBUG=1 shows where)", error.errno or 0)
        return _fail(EngineError.__name__, text, EngineError.exit_code, as_json=as_json)
    if os.environ.get("PAGECHECK_DEBUG"):
        raise error
    what = f"a bug in pagecheck: {type(error).__name__}: {error}; "
    what += "PAGECHECK_DEBUG=1 shows where" if not _helper_is_stale() else STALE
    return _fail(InternalError.__name__, what, InternalError.exit_code, as_json=as_json)
