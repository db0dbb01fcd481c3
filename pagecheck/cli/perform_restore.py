"""`pagecheck restore`: does it, and prints what was done."""

from __future__ import annotations

import contextlib

from pagecheck.cli.streams import log_to_stderr, require_reader, say
from pagecheck.cli.working import with_progress
from pagecheck.errors import UsageError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from typing import Any

    from pagecheck.snapshot.restore import Restored, RestoreReport


def perform_restore(
    directory: str,
    command: tuple[str, ...],
    *,
    ram: tuple[str, ...],
    execute: bool = False,
    paused: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    **options: Any,
) -> int:
    """Restores as the options of the command say, and returns the exit code."""
    if execute and not command:
        raise UsageError("--exec runs the QEMU command after --; give it")
    if paused and not execute:
        raise UsageError("--paused goes with --exec")
    log_to_stderr(verbose=verbose)
    if not (quiet or execute) or as_json:
        require_reader()
    where = _by_block(ram)
    with contextlib.ExitStack() as stack:
        query = None
        if command:
            from pagecheck.snapshot.ready import types_query

            query = stack.enter_context(types_query(command))  # it answers while the rest is loaded
        from pagecheck.snapshot.restore import Restored

        def begin(watch: Any) -> Restored:
            return Restored(
                directory,
                where,
                command=command,
                verifying=watch,
                writing=watch,
                query=query,
                **options,
            )

        restored = stack.enter_context(with_progress(begin, "restoring", quiet=quiet))
        if execute:
            return _in_front(restored, paused=paused, as_json=as_json, quiet=quiet)
        restored.keep()
        if as_json:
            import json

            print(json.dumps(restored.report.to_json()))
        elif not quiet:
            print("\n".join([*_told(restored.report), "", *_way(restored)]))
    return 0


def _by_block(given: tuple[str, ...]) -> str | dict[str, str]:
    """The path, or the path of each block by its name."""
    if len(given) == 1 and ("=" not in given[0] or "/" in given[0].partition("=")[0]):
        return given[0]
    found: dict[str, str] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or not path or name in found:
            raise UsageError(f"--ram {each}: name each RAM block once, as BLOCK=PATH")
        found[name] = path
    return found


def _in_front(restored: Restored, *, paused: bool, as_json: bool, quiet: bool) -> int:
    """Runs QEMU until it ends, and returns its exit status."""
    import json

    from pagecheck.snapshot.front import InFront, exit_code

    with restored.start(paused=paused) as qemu, InFront() as front:
        restored.load(qemu, paused=paused)
        try:
            if as_json:
                print(json.dumps(restored.report.to_json()), flush=True)
            elif not quiet:
                for line in _told(restored.report):
                    say(line)
        finally:  # also where the report cannot be written, the VM runs
            front.wait([qemu.process])
        return exit_code(qemu.process.wait())


def _told(report: RestoreReport) -> list[str]:
    from pagecheck.cli.present import size_text
    from pagecheck.printable import printable

    lines = []
    for each in report.blocks:
        done = f"{size_text(each.allocated)} of {size_text(each.size)} allocated"
        if not each.is_new:
            done += f", {each.written} pages written, {each.cleared} cleared"
        lines.append(f"{printable(each.name)}: {printable(each.path)}, {done}")
    if all(each.is_new for each in report.blocks):
        lines.append(f"verified and laid out in {report.verify_s + report.layout_s:.2f} s")
    else:
        lines.append(f"verified in {report.verify_s:.2f} s, laid out in {report.layout_s:.2f} s")
    if report.load_s is not None:
        lines.append(f"QEMU {report.pid} took the state in {report.load_s * 1e3:.1f} ms")
    return lines


def _way(restored: Restored) -> list[str]:
    """How the VM is continued by hand."""
    import shlex

    from pagecheck.printable import printable

    if restored.report.state is None:
        return ["The snapshot holds memory alone; start your VMM with this RAM."]
    words = restored.command_to_print()
    return [
        "The VM goes on with this command (add -S, and it waits for cont):",
        f"  {printable(shlex.join(words))}",
    ]
