"""A page in a real browser that is watched: what it says, what it asks the network for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagecheck.clock import now_s

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Route

SHOTS = Path(__file__).parents[2] / "build/screenshots"
FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex='0']"
WAIT_MS = 10_000


class Watched:
    """One page, of one width, in one colour scheme.

    Attributes:
        page: Playwright's page.
        look: width and colour scheme, as in the names of screenshots.
    """

    def __init__(self, context: BrowserContext, look: str) -> None:
        self.look = look
        self._allowed: list[str] = []
        self._faults: list[str] = []
        self._forgiven: list[str] = []
        context.set_default_timeout(WAIT_MS)
        context.route("**/*", self._decide)
        context.route_web_socket(
            re.compile(""), lambda socket: self._faults.append(f"asked for {socket.url}")
        )
        self.page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        self.page.on("crash", lambda _page: self._faults.append("the page crashed"))

    def _decide(self, route: Route) -> None:
        url = route.request.url
        if any(url.startswith(each) for each in self._allowed):
            route.continue_()
        else:
            self._faults.append(f"asked for {url}")
            route.abort()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._faults.append(f"console: {message.text}")

    def open(self, where: Path | str) -> None:
        """Opens a file, or the page of a service, which may then be asked for more."""
        url = where.as_uri() if isinstance(where, Path) else where
        self._allowed.append(url if isinstance(where, Path) else re.match(r"\w+://[^/]+/", url)[0])
        self.page.goto(url)

    def faults(self) -> list[str]:
        """What the page did that no page of ours may do."""
        return [f for f in self._faults if not any(words in f for words in self._forgiven)]

    def expected_fault(self, words: str) -> None:
        """Waits for a fault that a test provokes, and forgives it."""
        until = now_s() + WAIT_MS / 1000
        while not any(words in each for each in self._faults) and now_s() < until:
            self.page.wait_for_timeout(20)
        assert any(words in each for each in self._faults), self._faults
        self.forgive(words)

    def forgive(self, words: str) -> None:
        """Leaves out faults that follow from another one, at any time."""
        self._forgiven.append(words)

    def shot(self, name: str) -> None:
        """Keeps a screenshot of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}-{self.look}.png", full_page=True)

    def serious(self) -> list[str]:
        """What axe-core finds that keeps people from using the page, each with its elements."""
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def reached_by_tab(self, most: int = 200) -> list[str]:
        """The elements that Tab reaches from the top, in order, as `tag#id text`.

        Fails where one of them shows no focus.
        """
        self.page.evaluate("document.activeElement.blur()")
        reached = []
        for _ in range(most):
            self.page.keyboard.press("Tab")
            here: Any = self.page.evaluate(_DESCRIBE_FOCUS)
            if here is None:
                return reached
            assert here["shown"], f"no visible focus: {here['name']}"
            reached.append(here["name"])
        raise AssertionError(f"Tab still moves after {most} elements: {reached[-3:]}")

    def can_be_used(self) -> list[str]:
        """Everything visible that can be used, named as by `reached_by_tab`."""
        return self.page.evaluate(
            "(all) => [...document.querySelectorAll(all)]"
            ".filter((e) => e.checkVisibility() && !e.disabled && e.tabIndex >= 0)"
            f".map({_NAME})",
            FOCUSABLE,
        )


_NAME = """(e) => `${e.tagName.toLowerCase()}#${e.id} ` +
    `${(e.getAttribute("aria-label") ?? e.textContent).trim().slice(0, 40)}`"""
_DESCRIBE_FOCUS = f"""() => {{
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const style = getComputedStyle(e);
    const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
    return {{ name: ({_NAME})(e), shown }};
}}"""
