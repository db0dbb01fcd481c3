"""One service from its start to its end: what is opened first is closed last."""

from __future__ import annotations

import contextlib
import logging
import resource
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pagecheck.coordinator import Coordinator
from pagecheck.errors import UsageError
from pagecheck.service.activation import listen
from pagecheck.service.limits import Limits
from pagecheck.service.policy import NO_POLICY, Policy
from pagecheck.service.server import serve
from pagecheck.service.service import Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagecheck.service.endpoints import Endpoint

DESCRIPTORS: Final = 16384  # 32 clients with 32 blocks and 16 direct channels each, and more

log = logging.getLogger(__name__)


class Where(NamedTuple):
    """Where a service listens, and for whom.

    Attributes:
        path: `--socket`, or None.
        fd: `--fd`, or None; with neither, systemd's.
        allowed_uids: users beside root and our own.
        metrics: HOST:PORT for Prometheus, or None.
        policy: what clients may do beyond their own rights; those whom it names are let in, too.
        page: HOST:PORT for the page, or None.
        page_names: the page shows who the clients are and what they call their VMs and blocks.
    """

    path: str | None
    fd: int | None
    allowed_uids: Sequence[int] = ()
    metrics: str | None = None
    policy: Policy = NO_POLICY
    page: str | None = None
    page_names: bool = False


def run_service(where: Where, limits: Limits, **engine: Any) -> None:
    """Serves until a signal ends it. Must be called from the main thread.

    Args:
        **engine: the arguments of `Coordinator`.

    Raises:
        PagecheckError: it cannot be started; it leaves nothing behind then.
    """
    limits.check()
    _raise_descriptor_limit()
    if engine.get("engine") == "none":
        raise UsageError("engine none: the service cannot work without an engine")
    offered: Sequence[Endpoint] = ()
    if where.metrics is not None or where.page is not None:
        from pagecheck.service.endpoints import endpoints

        offered = endpoints(where.metrics, where.page, names=where.page_names)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(
            listen(where.path, where.fd, for_others=bool(where.allowed_uids or where.policy.rules))
        )
        coordinator = stack.enter_context(Coordinator(**engine))
        assert coordinator.settings is not None
        service = Service(coordinator, coordinator.settings, limits, where.policy)
        stack.callback(service.close)
        for each in offered:
            stack.callback(each.start(service).close)
        serve(listener, service, frozenset(where.allowed_uids))


def _raise_descriptor_limit() -> None:
    """As far as we may: also descriptors on their way to clients count. Source: getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
