"""Headless Chromium, driven at three widths and in both colour schemes.

A page that writes an error to the console, throws, or asks any network for anything fails its
test. Playwright runs an event loop in this thread as long as it is in use, in which no other test
could run one of its own: so it lives no longer than a module.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.browser.pages import WAIT_MS, Watched
from tests.support.needs import needs_library, unavailable

WIDTHS = (360, 900, 1600)
SCHEMES = ("light", "dark")
NAMES = ("chromium", "chromium-browser", "google-chrome")
# No request of the browser's own. Playwright itself leaves the sandbox out, which root cannot have.
OPTIONS = (
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--no-proxy-server"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """The browser of a module; what it writes goes to a folder of the test's."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        unavailable("no browser: apt-get install chromium")
    for name in ("playwright", "axe_playwright_python"):
        needs_library(name, "test-survey")
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("browser")
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TMPDIR", "HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"):
            patch.setenv(name, str(folder))
        with sync_playwright() as playwright:
            started = playwright.chromium.launch(
                executable_path=program, args=list(OPTIONS), timeout=3 * WAIT_MS
            )
            yield started
            started.close()
    assert list(folder.glob("*profile*")) == []
    left = [each for each in psutil.Process().children(recursive=True) if each not in before]
    assert psutil.wait_procs(left, timeout=WAIT_MS / 1000)[1] == []


@pytest.fixture(params=[(w, s) for w in WIDTHS for s in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def look(request: pytest.FixtureRequest) -> tuple[int, str]:
    """Each width in each colour scheme."""
    return request.param


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Watched]]:
    """Opens a file or an address, of any width and in any colour scheme."""
    contexts, visited = [], []

    def opened(
        where: Path | str, width: int = 900, scheme: str = "light", *, scripts: bool = True
    ) -> Watched:
        contexts.append(
            browser.new_context(
                viewport={"width": width, "height": 800},
                color_scheme=scheme,
                reduced_motion="reduce",
                accept_downloads=False,
                java_script_enabled=scripts,
                service_workers="block",
            )
        )
        visited.append(Watched(contexts[-1], f"{width}-{scheme}"))
        visited[-1].open(where)
        return visited[-1]

    yield opened
    for context in contexts:
        context.close()
    assert [fault for each in visited for fault in each.faults()] == []
