"""What grew since an earlier survey: what a save of each file would weigh, then and now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pagecheck.survey.tables import save_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pagecheck.survey.values import Row


def growth(row: Row, before: Mapping[str, Row]) -> int | None:
    """Bytes that a save of it would weigh more than at an earlier survey, less than 0 if less;
    None where one of the two has no answer.

    Args:
        before: the rows of the earlier survey, by path.
    """
    old = before.get(row.path)
    if old is None or old.error is not None or row.error is not None:
        return None
    return save_bytes(row) - save_bytes(old)


class Changes(NamedTuple):
    """Two surveys, compared by path.

    Attributes:
        grown: path and growth of the files of which a save would weigh more, the most first.
        shrunk: of those of which it would weigh less, the most first.
        new: paths that only the later survey has.
        gone: paths that only the earlier one has.
    """

    grown: list[tuple[str, int]]
    shrunk: list[tuple[str, int]]
    new: list[str]
    gone: list[str]

    @classmethod
    def between(cls, before: Mapping[str, Row], now: Iterable[Row]) -> Changes:
        """What changed.

        Args:
            before: the rows of the earlier survey, by path.
            now: those of the later one.
        """
        rows = {row.path: row for row in now}
        grown = [(path, growth(row, before) or 0) for path, row in rows.items()]
        grown.sort(key=lambda each: -each[1])
        return cls(
            grown=[each for each in grown if each[1] > 0],
            shrunk=[each for each in reversed(grown) if each[1] < 0],
            new=[path for path in rows if path not in before],
            gone=[path for path in before if path not in rows],
        )
