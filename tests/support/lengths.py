"""Which tests are long: those that a person need not wait for each time."""

import pytest


def is_long(item: pytest.Item) -> bool:
    """Whether a mark says so; the nearest one counts.

    With `but`, only a test with parameters is long, and not where these begin so: that one shows
    in short what all of them do.
    """
    mark = item.get_closest_marker("long")
    if mark is None or "but" not in mark.kwargs:
        return mark is not None
    _, _, parameters = item.name.partition("[")
    return bool(parameters) and not parameters.startswith(mark.kwargs["but"])
