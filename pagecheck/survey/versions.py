"""Whether the workers of a cluster have the same programs as this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pagecheck.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SHOWN = 3  # workers in a line


def require_pagecheck(address: str, versions: Mapping[str, Any]) -> None:
    """Raises EngineError where a worker has another pagecheck than this machine, or none.

    Args:
        versions: what `distributed.Client.get_versions(packages=["pagecheck"])` returned.
    """
    line = _difference(versions, "pagecheck", lambda each: each["packages"].get("pagecheck"))
    if line is not None:
        raise EngineError(f"{address}: {line}; install the same on all of them")


def differences(address: str, versions: Mapping[str, Any]) -> Iterator[str]:
    """What else differs, a line for each; a survey can be made nevertheless."""
    for what, of in (("Python", _python), ("kernel", lambda each: each["host"]["OS-release"])):
        line = _difference(versions, what, of)
        if line is not None:
            yield f"{address}: {line}"


def _python(each: Mapping[str, Any]) -> str:
    return ".".join(each["host"]["python"].split(".")[:3])


def _difference(
    versions: Mapping[str, Any], what: str, of: Callable[[Mapping[str, Any]], str | None]
) -> str | None:
    here = of(versions["client"])
    others: dict[str, list[str]] = {}
    for worker, each in versions["workers"].items():
        if (there := of(each)) != here:
            others.setdefault(f"{what} {there}" if there else f"no {what}", []).append(worker)
    if not others:
        return None
    told = "; ".join(f"{there} on {_few(workers)}" for there, workers in sorted(others.items()))
    return f"{what} {here} here, but {told}"


def _few(workers: list[str]) -> str:
    more = len(workers) - SHOWN
    return ", ".join(workers[:SHOWN]) + (f" and {more} more" if more > 0 else "")
