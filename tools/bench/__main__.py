"""`python -m tools.bench WHAT...`: a table of ratios measured in one run, and the same as JSON.

It asserts nothing. A ratio above 1 means that pagecheck is better than the peer; an aim is what the
project wants the median to be.
"""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import click

from tools.bench import (
    against,
    channel,
    cold,
    commands,
    costs,
    disk,
    dsa,
    kernels,
    neon,
    pool,
    private,
    private_guest,
    private_loop,
    quick,
    record,
    sidecar,
    snapshot,
    sparse,
    startup,
    survey,
)
from tools.bench.data import BUILD
from tools.bench.rows import Row, table


def _kernels(repeats: int, guest: Path | None) -> list[Row]:
    return kernels.run(repeats, 1 << 30, guest)


def _private(repeats: int) -> list[Row]:
    return [*private.run(repeats), *private_loop.run(repeats), *private_guest.run(repeats)]


SUITES: dict[str, Callable[[int, Path | None], list[Row]]] = {
    "kernels": _kernels,
    "neon": lambda _repeats, _guest: neon.run(),
    "pool": lambda repeats, _guest: pool.run(repeats),
    "channel": lambda repeats, _guest: channel.run(repeats),
    "cold": lambda repeats, _guest: cold.run(repeats),
    "commands": lambda repeats, _guest: commands.run(repeats),
    "costs": lambda repeats, _guest: costs.run(repeats),
    "disk": lambda repeats, _guest: disk.run(repeats),
    "dsa": dsa.run,
    "private": lambda repeats, _guest: _private(repeats),
    "sidecar": lambda repeats, _guest: sidecar.run(repeats),
    "snapshot": lambda repeats, _guest: snapshot.run(repeats),
    "sparse": lambda repeats, _guest: sparse.run(repeats),
    "startup": lambda repeats, _guest: startup.run(repeats),
    "survey": lambda repeats, _guest: survey.run(repeats),
}


@click.command(help=__doc__)
@click.argument(
    "what", type=click.Choice([*SUITES, "quick", "against", "all"]), nargs=-1, required=True
)
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True)
@click.option("--guest", type=click.Path(exists=True, path_type=Path), help="A real guest's RAM.")
@click.option("--other", type=click.Path(exists=True, path_type=Path), help="For `against`.")
@click.option(
    "--compare",
    type=click.Path(exists=True, path_type=Path),
    help="The JSON of a run before: also print what moved.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=BUILD / "bench.json")
def main(
    what: tuple[str, ...],
    repeats: int,
    guest: Path | None,
    other: Path | None,
    compare: Path | None,
    json_path: Path,
) -> None:
    """Runs suites, or all of them."""
    try:
        old = record.read(compare) if compare else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # What pip installs is compiled; with this set, every command would compile the checkout again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    command = shlex.join(["python", "-m", "tools.bench", *sys.argv[1:]])
    run = record.Run(command, record.machine(), {})
    for name in SUITES if "all" in what else what:
        click.echo(f"{name} ...", err=True)
        run.suites[name] = _suite(name, repeats, guest, other)
    print(table(run.rows))
    record.write(run, json_path)
    print(f"\nthe same as JSON: {json_path}")
    for line in record.compare(old, run) if old else ():
        print(line)


def _suite(name: str, repeats: int, guest: Path | None, other: Path | None) -> list[Row]:
    if name == "quick":
        return quick.run(repeats)
    if name != "against":
        return SUITES[name](repeats, guest)
    if other is None:
        raise click.UsageError("against: give --other, a checkout with a .venv of its own")
    return against.run(repeats, other.resolve())


if __name__ == "__main__":
    main()
