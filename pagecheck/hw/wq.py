"""What users name with --wq: a work queue's device node, or a software device of this process."""

from __future__ import annotations

from collections import namedtuple

from pagecheck.errors import UsageError

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every worker
if TYPE_CHECKING:
    from typing import Final

MODEL: Final = "model:"
MODES: Final = ("shared", "dedicated", "write")
DIGITS_MAX: Final = 20  # 2**64; int() refuses some thousands
_SUFFIXES: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DEFAULTS: Final = {
    "mode": "shared",
    "size": "64",
    "threshold": "",
    "batch": "128",
    "transfer": "2M",
    "version": "1",
    "seed": "0",
    "faults": "none",
    "delay": "0",
    "engines": "1",
    "prs": "0",
    "ats": "1",
}
_RANGES: Final = {
    "size": (1, 128),
    "threshold": (1, 128),
    "batch": (2, 1024),
    "transfer": (4096, 2 << 30),  # at least a page
    "version": (1, 2),
    "seed": (0, (1 << 64) - 1),
    "delay": (0, 60_000_000),
    "engines": (1, 4),
    "prs": (0, 1),
    "ats": (0, 1),
}


class Model(
    namedtuple(
        "Model",
        "text mode size threshold batch transfer version seed faults delay engines prs ats",
    )
):
    """A software device; every worker that names it has its own.

    Attributes:
        text: as the user wrote it.
        mode: "shared", "dedicated" or "write".
        size: entries of the queue.
        threshold: entries that a shared queue admits.
        batch: descriptors of a batch at most.
        transfer: bytes of a descriptor at most.
        version: 1 or 2.
        seed: of everything that is random.
        faults: name of the fault plan.
        delay: microseconds from a submission to its execution.
        engines: that execute side by side.
        prs: 1: absent lists and records are asked for, not faulted upon.
        ats: 0: a fault on a record is not reported.
    """

    __slots__ = ()
    text: str
    mode: str
    size: int
    threshold: int
    batch: int
    transfer: int
    version: int
    seed: int
    faults: str
    delay: int
    engines: int
    prs: int
    ats: int


def parse(text: str) -> str | Model:
    """A path as it is, `model:key=value,...` as a Model.

    Raises:
        UsageError: a key is unknown or a value out of range; it names both.
    """
    if not text.startswith(MODEL):
        if not text.startswith("/"):
            raise UsageError(f"wq {text!r}: give a path such as /dev/dsa/wq0.0, or 'model:'")
        return text
    values = dict(_DEFAULTS)
    for item in filter(None, text[len(MODEL) :].split(",")):
        key, equals, value = item.partition("=")
        if key not in values or not equals:
            raise UsageError(f"wq {text!r}: {item!r} is not one of {', '.join(values)}=VALUE")
        values[key] = value
    if values["mode"] not in MODES:
        raise UsageError(f"wq {text!r}: mode {values['mode']!r} is not one of {', '.join(MODES)}")
    size = _number(text, "size", values["size"])
    default = str(max(1, size - max(1, size // 16)))
    threshold = _number(text, "threshold", values["threshold"] or default)
    if threshold > size:
        raise UsageError(f"wq {text!r}: threshold {threshold} is more than the size {size}")
    return Model(
        text=text,
        mode=values["mode"],
        size=size,
        threshold=threshold,
        batch=_number(text, "batch", values["batch"]),
        transfer=_number(text, "transfer", values["transfer"]),
        version=_number(text, "version", values["version"]),
        seed=_number(text, "seed", values["seed"]),
        faults=values["faults"],
        delay=_number(text, "delay", values["delay"]),
        engines=_number(text, "engines", values["engines"]),
        prs=_number(text, "prs", values["prs"]),
        ats=_number(text, "ats", values["ats"]),
    )


def refused(model: Model, error: ValueError) -> UsageError:
    """What to raise where the software device does not take what it was given."""
    return UsageError(f"wq {model.text!r}: {error}; see docs/usage.md")


def _number(text: str, key: str, value: str) -> int:
    low, high = _RANGES[key]
    factor = _SUFFIXES.get(value[-1:].upper(), 1)
    digits = value[:-1] if factor > 1 else value
    plain = digits.isascii() and digits.isdigit() and len(digits) <= DIGITS_MAX
    number = int(digits) * factor if plain else -1
    if not low <= number <= high:
        raise UsageError(f"wq {text!r}: {key} {value!r} is not a number from {low} to {high}")
    return number
