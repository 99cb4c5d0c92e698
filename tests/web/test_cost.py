"""What a page costs that shows nothing of what it could ask for, that is hidden, or closed: nothing."""

from __future__ import annotations

import asyncio

from tests.support.engines.raw_worker import Port, RawWorker
from tests.web.browser import SECONDS, Tab

HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def subscriptions(worker: RawWorker) -> int:
    return len((await worker.call("iii-state::triggers"))["result"]["triggers"])


async def until(worker: RawWorker, count: int) -> None:
    async with asyncio.timeout(SECONDS):
        while await subscriptions(worker) != count:
            await asyncio.sleep(0.05)


async def asked_within(opened: Tab, seconds: float) -> list[str]:
    """What the page asks for in so many seconds: a wait that is no synchronisation, but what is measured."""
    before = len(opened.sent)
    await asyncio.sleep(seconds)
    return opened.sent[before:]


async def test_data_that_is_shown_asks_for_nothing_again(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
    await opened.go("#/data?scope=s&key=k")
    await opened.page.get_by_role("tree").wait_for()
    await opened.page.get_by_text("1 key, all").wait_for()
    assert await asked_within(opened, 4) == []


async def test_a_hidden_page_asks_for_nothing_and_hears_of_nothing(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/")
    await opened.page.get_by_text("● The store answers.").wait_for()
    assert await asked_within(opened, 5) != []
    await opened.page.evaluate(HIDE, True)
    await asyncio.sleep(1)  # what was asked before is answered
    assert await asked_within(opened, 5) == []
    await opened.page.evaluate(HIDE, False)
    await opened.page.get_by_role("link", name="Live").click()
    await until(worker, 1)
    await opened.page.evaluate(HIDE, True)
    await until(worker, 0)
    await opened.page.evaluate(HIDE, False)
    await until(worker, 1)
    await opened.page.get_by_role("option", name="the page was hidden, and did not listen").wait_for()


async def test_a_page_that_leaves_live_or_is_closed_leaves_no_subscription(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live")
    await until(worker, 1)
    await opened.page.get_by_role("link", name="Data").click()
    await until(worker, 0)
    await opened.page.get_by_role("link", name="Live").click()
    await until(worker, 1)
    await opened.page.close()
    await until(worker, 0)
