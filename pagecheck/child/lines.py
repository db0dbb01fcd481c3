"""JSON lines, by the C functions that the module `json` is made of.

Every worker speaks JSON, and `json` itself would cost each of them a sixth of its start: it loads
`re` and much that only programs with other wishes need. Where a Python has these functions
otherwise, `json` does it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_BLANK = " \t\n\r"


class _Plain:
    """What `_json` reads of a decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None  # Python 3.15
    parse_float = float
    parse_int = int
    parse_constant = float


def _refuse(value: object) -> None:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _by_c() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    """`dumps` and `loads` of what `_json` has."""
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    text = encode_basestring_ascii
    encode = make_encoder(None, _refuse, text, None, ":", ",", False, False, True)
    scan: Any = make_scanner(_Plain)  # type: ignore[arg-type]  # typeshed wants one of its own

    def dumps(value: Any) -> str:
        return "".join(encode(value, 0))

    def loads(text: str) -> Any:
        text = text.strip(_BLANK)
        try:
            value, end = scan(text, 0)
        except StopIteration:
            raise ValueError("no JSON value") from None
        if end != len(text):
            raise ValueError(f"more than a JSON value: {text[end : end + 80]!r}")
        return value

    if loads(dumps({"x": [1, 0.5, None, True, "ü"]})) != {"x": [1, 0.5, None, True, "ü"]}:
        raise ValueError("another kind of _json")
    return dumps, loads


def _by_json() -> tuple[Callable[[Any], str], Callable[[str], Any]]:
    import json

    def dumps(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    return dumps, json.loads


try:
    dumps, loads = _by_c()
except (ImportError, AttributeError, TypeError, ValueError):
    dumps, loads = _by_json()
