"""`pagecheck punch`: does it, and prints what was freed."""

from __future__ import annotations

from pagecheck.cli.streams import log_to_stderr, require_reader
from pagecheck.cli.working import with_progress

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final

    from pagecheck.snapshot.punch_report import PunchReport


def perform_punch(
    source: str,
    run: Callable[..., PunchReport] | None = None,
    *,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    **options: Any,
) -> int:
    """Punches as the options of the command say, and returns the exit code.

    Args:
        run: what does it, if that is not this program.
    """
    from pagecheck.snapshot.punch import punch

    does = run or punch
    log_to_stderr(verbose=verbose)
    if not quiet or as_json:
        require_reader()
    report = with_progress(
        lambda watch: does(source, progress=watch, **options), "punching", quiet=quiet
    )
    if as_json:
        import json

        print(json.dumps(report.to_json()))
    elif not quiet:
        print(_text(report))
    return 0 if report.why_incomplete is None else 1


def _text(report: PunchReport) -> str:
    from pagecheck.cli.present import columns, size_text
    from pagecheck.printable import printable, printable_lines

    would = "would be freed" if report.dry_run else "freed"
    rows = [["block", "size", "smallest hole", "zero", "allocated", would]]
    for block in report.blocks:
        freed = block.zero_bytes if report.dry_run else block.freed_bytes
        sizes = (block.size, block.unit_bytes, block.zero_bytes, block.allocated_after, freed)
        rows.append([printable(block.name), *map(size_text, sizes)])
    lines = [printable_lines(columns(rows)), f"{_PROOFS[report.proof]}; {report.seconds:.2f} s"]
    if report.pause is not None and report.pause.stopped_by_us:
        lines.append(f"the VM was paused for {report.pause.seconds * 1e3:.1f} ms")
    if report.why_incomplete is not None:
        lines.append(f"not done to the end: {printable(report.why_incomplete)}")
    lines += [f"note: {printable(note)}" for note in report.notes]
    return "\n".join(lines)


_PROOFS: Final = {
    "lease": "nobody else had the file open or mapped",
    "pause": "the VM was stopped meanwhile",
    "user": "that nobody writes to it was vouched for (--nobody-writes)",
}
