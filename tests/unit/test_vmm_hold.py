"""A hold on a VM whose VMM answers late."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pagecheck.vmm.hold.controller import Controller, Seen, Silent, Step
from pagecheck.vmm.hold.hold import Hold
from pagecheck.vmm.kinds import FIRECRACKER


class LateVmm:
    """Carries a pause out and does not answer; the next question is answered when it may be."""

    name, kind = "fc:late", FIRECRACKER

    def __init__(self) -> None:
        self.state = "Running"
        self.answers = asyncio.Event()
        self.answers.set()

    async def prepare(self) -> None: ...

    async def mark(self) -> None: ...

    async def status(self) -> str:
        await self.answers.wait()
        return self.state

    async def stop(self) -> bool:
        self.state = "Paused"
        if self.answers.is_set():
            return False
        raise Silent("did not answer")

    async def cont(self) -> None:
        self.state = "Running"

    async def step(self, status: str) -> Step:
        return "cont" if status == "Paused" else "leave"

    def runs(self, status: str) -> bool:
        return status == "Running"

    def is_still(self, status: str) -> bool:
        return status == "Paused"

    def seen(self) -> Seen:
        return Seen()

    def doubt(self) -> str | None:
        return None

    def require_here(self) -> None: ...


def test_the_longest_time_of_a_failed_pause_does_not_end_the_next_one() -> None:
    """It passes while the next one waits for the VMM."""

    async def twice() -> dict[str, Any]:
        vmm = LateVmm()
        hold = Hold(cast("Controller", vmm), pytest.fail)
        stop = vmm.stop

        async def silent() -> bool:
            vmm.answers.clear()
            return await stop()

        vmm.stop = silent  # type: ignore[method-assign]
        with pytest.raises(Silent):
            await hold.pause(1)
        vmm.stop = stop  # type: ignore[method-assign]
        again = asyncio.ensure_future(hold.pause(60 * 10**9))
        while hold._expiring is None:
            await asyncio.sleep(0.001)
        vmm.answers.set()
        await again
        await asyncio.wait({hold._expiring} if hold._expiring else {again})
        assert vmm.state == "Paused"
        return await hold.resume(leave=False)

    result = asyncio.run(twice())
    assert (result["stood_still"], result["expired"], result["stopped_by_us"]) == (
        True,
        False,
        True,
    )
