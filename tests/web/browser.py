"""A real browser, Debian's Chromium, and what its tabs must never do."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Request, async_playwright

SECONDS = 15.0


@contextlib.asynccontextmanager
async def chromium(*arguments: str) -> AsyncIterator[Browser]:
    """Started for the length of a `with` block; a test is skipped where there is none (scripts/test --slow installs it)."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no chromium; scripts/test --slow installs it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *arguments])
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """One tab on the page of an engine. `faults` are what it must never do: errors, violations of its policy, foreign requests."""

    def __init__(self, page: Page, base: str) -> None:
        self.page = page
        self.base = base
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.sent: list[str] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", lambda told: self._heard(told.type, told.text))
        page.on("request", self._asked)
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: self.sent.append(str(frame))))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "Failed to load resource" not in text and "WebSocket connection" not in text:
            self.faults.append(f"{kind}: {text}")

    def _asked(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.faults.append(f"a foreign request: {request.url}")

    async def go(self, place: str = "") -> None:
        """Open a place, as a link that somebody was sent does."""
        await self.page.goto("about:blank")
        await self.page.goto(f"{self.base}/{place}")

    async def connected(self) -> None:
        """Wait until the page has its connection."""
        await self.page.locator('html[data-connection="open"]').wait_for(state="attached")

    def button(self, name: str, **options: Any) -> Any:
        """A button by its words."""
        return self.page.get_by_role("button", name=name, **options)

    def option(self, listed: str, name: str) -> Any:
        """A row of a list by its words."""
        return self.page.get_by_role("listbox", name=listed).get_by_role("option", name=name, exact=True)


@contextlib.asynccontextmanager
async def tab(browser: Browser, base: str, **options: Any) -> AsyncIterator[Tab]:
    """A tab of its own profile, for the length of a `with` block; it must have had no faults in the end."""
    context = await browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    opened = Tab(await context.new_page(), base)
    try:
        yield opened
    finally:
        await context.close()
    assert opened.faults == []


def base_of(url: str) -> str:
    """Where the page of an engine is."""
    return url.replace("ws://", "http://", 1).rstrip("/")
