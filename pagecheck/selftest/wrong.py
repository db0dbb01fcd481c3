"""What is found to be wrong: a result of the self-test, not a failure of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Wrong(Exception):
    """An answer that is not right, or something that was left behind; the text says what."""


def require(right: bool, text: str) -> None:
    """Raises Wrong unless it is so."""
    if not right:
        raise Wrong(text)


def require_same(what: str, found: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> None:
    """Raises Wrong with the first page of which they differ.

    Args:
        what: such as "zero pages of the scan".
    """
    differ = found != right
    if differ.any():
        page = int(differ.argmax())
        said = f"page {page} is {bool(found[page])}, and {bool(right[page])} is right"
        raise Wrong(f"{what}: {said}; {int(differ.sum())} pages differ")
