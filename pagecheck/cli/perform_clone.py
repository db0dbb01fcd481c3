"""`pagecheck clone`: starts the clones, and stays in front of them."""

from __future__ import annotations

import contextlib

from pagecheck.cli.streams import log_to_stderr, require_reader
from pagecheck.cli.working import with_progress
from pagecheck.errors import UsageError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pagecheck.snapshot.clone import CloneReport


def perform_clone(
    directory: str,
    command: tuple[str, ...],
    *,
    count: int,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    **options: Any,
) -> int:
    """Clones as the options of the command say, and returns the exit code once all have ended."""
    if not command:
        raise UsageError("give QEMU's command after --, as for a first start of the VM")
    log_to_stderr(verbose=verbose)
    if as_json:
        require_reader()
    from pagecheck.snapshot.ready import types_query

    with contextlib.ExitStack() as stack:
        query = stack.enter_context(types_query(command))  # it answers while the rest is loaded
        from pagecheck.snapshot.clone import Clones, to_json

        def begin(watch: Any) -> Clones:
            return Clones(directory, count, command, progress=watch, query=query, **options)

        clones = stack.enter_context(with_progress(begin, "verifying", quiet=quiet))
        found = clones.start()
        from pagecheck.snapshot.front import InFront, exit_code

        with InFront() as front:
            if as_json:
                import json

                print(json.dumps(to_json(found, clones.verify_s)), flush=True)
            elif not quiet:
                print(_table(found), flush=True)
            front.wait(clones.processes)
            codes = [exit_code(each.wait()) for each in clones.processes]
    return next((code for code in codes if code), 0)


def _table(found: Sequence[CloneReport]) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable_lines

    rows = [["clone", "pid", "runs after", "memory", "its own", "QMP"]]
    for each in found:
        memory = (size_text(each.pss_bytes), size_text(each.private_bytes))
        seconds = f"{each.running_s * 1e3:.0f} ms"
        rows.append([str(each.number), str(each.pid), seconds, *memory, each.qmp])
    total = size_text(sum(each.pss_bytes for each in found))
    return f"{printable_lines(columns(rows))}\n{total} of memory in all (Pss)"
