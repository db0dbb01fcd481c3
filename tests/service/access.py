"""What the tests of the service's access rule ask."""

from __future__ import annotations

from typing import Any

from tests.support.puppets import Puppet
from tests.support.service import ServiceProcess


def attach(client: Puppet, path: str, **arguments: Any) -> dict[str, Any]:
    """Connects and attaches; gives what the service returned."""
    client.call("connect", path)
    answer = client.call("ask", {"execute": "attach", "arguments": arguments})
    assert "return" in answer, answer
    found: dict[str, Any] = answer["return"]
    return found


def refusals(service: ServiceProcess) -> list[str]:
    """The lines of the log on what was refused."""
    return [line for line in service.stderr_text().splitlines() if "refused to process" in line]
