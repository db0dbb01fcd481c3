"""`--via SOCKET`: a command that a service does, and what it then decides itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click


def require_service(
    via: str | None, via_uid: int | None, options: dict[str, Any], its_own: Iterable[click.Option]
) -> bool:
    """Whether a service is asked.

    Args:
        options: of the command; those that a service decides are taken out where one is asked.
        its_own: those.

    Raises:
        UsageError: one of them was given, or --via-uid without --via.
    """
    if via is None and via_uid is not None:
        raise click.UsageError("--via-uid goes with --via SOCKET")
    if via is None:
        return False
    for option in its_own:
        _require_default(option)
        options.pop(option.name or "")
    return True


def _require_default(option: click.Option) -> None:
    given = click.get_current_context().get_parameter_source(option.name or "")
    if given is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError(f"{option.opts[0]} is the service's to choose; drop it or --via")
