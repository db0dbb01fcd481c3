"""Many memory files at once: rows, tables, stores and clusters.

`pagecheck.survey` is both this room and the function: once a module of the room is loaded, Python
makes the room an attribute of the package, in the place of the function. So the room can be called.
"""

from __future__ import annotations

import sys
import types

TYPE_CHECKING = False  # type checkers take it for true
if TYPE_CHECKING:
    from typing import Any


class _Room(types.ModuleType):
    def __call__(self, *given: Any, **options: Any) -> Any:
        """`pagecheck.survey.api.survey`."""
        from pagecheck.survey.api import survey

        return survey(*given, **options)


sys.modules[__name__].__class__ = _Room
