"""`--via SOCKET`: a command that a service does, and what it then decides itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import click

from pagecheck.cli.options import via as via_options

HERE: Final = "Connect to the service there; the work is done here, since it needs none."


_Command = TypeVar("_Command", bound=Callable[..., int])


def with_via(text: str) -> Callable[[_Command], _Command]:
    """A decorator that adds --via, with this help text, and --via-uid."""

    def add(command: _Command) -> _Command:
        vars(command).setdefault("__click_params__", []).extend(reversed(via_options(text)))
        return command

    return add


def require_there(via: str | None, via_uid: int | None) -> None:
    """Connects to a service that has nothing to do, if one is named.

    Raises:
        PeerError: there is none.
    """
    if require_service(via, via_uid, {}, ()):
        from pagecheck.service.client import Client

        assert via is not None
        Client(via, service_uid=via_uid).close()


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


def is_default(name: str) -> bool:
    """Whether an option of the command was not given."""
    given = click.get_current_context().get_parameter_source(name)
    return given is click.core.ParameterSource.DEFAULT


def _require_default(option: click.Option) -> None:
    if not is_default(option.name or ""):
        raise click.UsageError(f"{option.opts[0]} is the service's to choose; drop it or --via")
