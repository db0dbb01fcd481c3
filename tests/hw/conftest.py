"""Real work queues. Without one the tests are skipped; --require-hw makes that a failure."""

import pytest

from pagecheck.hw.devices import WorkQueue
from pagecheck.hw.queues import usable_queues, why_no_device


@pytest.fixture(scope="session")
def queues(request: pytest.FixtureRequest) -> list[WorkQueue]:
    """Every usable work queue of this host."""
    found = usable_queues(probe=True)
    if found:
        return found
    why = f"no usable work queue ('pagecheck devices' says why; {why_no_device()})"
    if request.config.getoption("require_hw"):
        pytest.fail(f"--require-hw, but {why}", pytrace=False)
    pytest.skip(why)
