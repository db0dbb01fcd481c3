"""`python -m tools.bench WHAT`: a table of ratios measured in one run, and the same as JSON.

It asserts nothing. A ratio above 1 means that pagecheck is better than the peer; an aim is what the
project wants the median to be.
"""

from collections.abc import Callable
from pathlib import Path

import click

from tools.bench import against, channel, cold, commands, costs, dsa, kernels, pool, sidecar
from tools.bench.data import BUILD
from tools.bench.rows import Row, table, write_json


def _kernels(repeats: int, guest: Path | None) -> list[Row]:
    return kernels.run(repeats, 512 << 20, guest)


SUITES: dict[str, Callable[[int, Path | None], list[Row]]] = {
    "kernels": _kernels,
    "pool": lambda repeats, _guest: pool.run(repeats),
    "channel": lambda repeats, _guest: channel.run(repeats),
    "cold": lambda repeats, _guest: cold.run(repeats),
    "commands": lambda repeats, _guest: commands.run(repeats),
    "costs": lambda repeats, _guest: costs.run(repeats),
    "dsa": dsa.run,
    "sidecar": lambda repeats, _guest: sidecar.run(repeats),
}


@click.command(help=__doc__)
@click.argument("what", type=click.Choice([*SUITES, "against", "all"]))
@click.option("--repeats", type=click.IntRange(1), default=9, show_default=True)
@click.option("--guest", type=click.Path(exists=True, path_type=Path), help="A real guest's RAM.")
@click.option("--other", type=click.Path(exists=True, path_type=Path), help="For `against`.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=BUILD / "bench.json")
def main(what: str, repeats: int, guest: Path | None, other: Path | None, json_path: Path) -> None:
    """Runs one suite, or all."""
    rows: list[Row] = []
    if what == "against":
        if other is None:
            raise click.UsageError("against: give --other, a checkout with a .venv of its own")
        rows += against.run(repeats, other.resolve())
    else:
        for name in SUITES if what == "all" else (what,):
            rows += SUITES[name](repeats, guest)
    print(table(rows))
    write_json(rows, json_path)
    print(f"\nthe same as JSON: {json_path}")


if __name__ == "__main__":
    main()
