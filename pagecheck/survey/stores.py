"""Objects of stores, checked where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagecheck.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagecheck.coordinator.coordinator import Coordinator
    from pagecheck.survey.values import Found, Options, Piece, Row, Target


def targets(url: str) -> Iterator[Target | Row]:
    """The objects below a URL.

    Raises:
        EngineError: what reads from stores is not installed.
    """
    raise EngineError(f"{url}: stores are read by fsspec: pip install 'pagecheck[survey]'")


def check_object(_coordinator: Coordinator, piece: Piece, _options: Options) -> Found:
    """Decides the pages of a piece of an object.

    Raises:
        EngineError: what reads from stores is not installed.
    """
    raise EngineError(f"{piece.target.path}: cannot be read")
