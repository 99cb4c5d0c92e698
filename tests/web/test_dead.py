"""Dead letters on the page: one, several, thousands; and an engine that is killed half-way: the sums are right."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
from playwright.async_api import Browser, Page, WebSocketRoute

from tests.support.engines.processes import EngineProcess, free_port, running_engine
from tests.support.engines.raw_worker import Port, RawWorker
from tests.web.browser import SECONDS, Tab, base_of, tab
from tests.web.workers import handling

CONFIG = {"scope": "s", "retry": {"max_attempts": 1}, "retention_ms": "forever"}


async def total(worker: RawWorker) -> int:
    """How many dead letters there are."""
    return int((await worker.call("iii-state::dead_list", {"limit": 1}))["result"]["total"])


async def until_dead(worker: RawWorker, count: int) -> None:
    async with asyncio.timeout(4 * SECONDS):
        while await total(worker) < count:
            await asyncio.sleep(0.05)


async def fill(worker: RawWorker, count: int) -> None:
    """So many events that nobody handles."""
    for number in range(count):
        data = json.dumps({"scope": "s", "key": f"k-{number}", "value": number})
        frame = '{"type":"invokefunction","function_id":"state::set","action":{"type":"void"},"data":'
        await worker.socket.send_str(f"{frame}{data}}}")
    await until_dead(worker, count)


async def test_one_is_shown_and_retried_and_several_are_dropped(opened: Tab, port: Port) -> None:
    writer = await port.connect(name="w", runtime="x", pid=1)
    async with handling(port, "orders::charge", CONFIG) as cards:
        await fill(writer, 5)
        await opened.go("#/dead")
        await opened.page.get_by_text("5 dead letters, all").wait_for()
        assert await opened.page.get_by_text("invocation_failed: <b>no</b> such card").count() == 1
        row = opened.page.get_by_role("row", name="k-2")
        await row.get_by_role("button", name="Show").click()
        await opened.page.get_by_role("treeitem", name="new_value: 2").wait_for()
        cards.fails = False
        await opened.page.get_by_role("region", name="The dead letter").get_by_role("button", name="Retry").click()
        dialog = opened.page.get_by_role("dialog")
        assert await dialog.get_by_role("button", name="Cancel").evaluate("each => each === document.activeElement")
        await dialog.get_by_role("button", name="Retry 1").click()
        await opened.page.get_by_text("4 dead letters, all").wait_for()
        assert [event["key"] for event in cards.handled] == ["k-2"]
        for key in ("k-0", "k-3"):
            await opened.page.get_by_role("row", name=key).get_by_role("checkbox").check()
        await opened.button("Drop 2 selected").click()
        await dialog.get_by_role("button", name="Drop 2").click()
        await dialog.get_by_text("2 dropped, 0 failed, of 2").wait_for()
        await dialog.get_by_role("button", name="Close").click()
        await opened.page.get_by_text("2 dead letters, all").wait_for()
        assert await total(writer) == 2
        assert [event["key"] for event in cards.handled] == ["k-2"]


async def test_5_000_are_retried_when_their_number_is_typed(opened: Tab, port: Port) -> None:
    writer = await port.connect(name="w", runtime="x", pid=1)
    async with handling(port, "orders::charge", CONFIG) as cards:
        await fill(writer, 5000)
        await opened.go("#/dead")
        await opened.page.get_by_text("1,000 loaded of 5,000").wait_for()
        cards.fails = False
        await opened.button("Retry 5,000").click()
        dialog = opened.page.get_by_role("dialog")
        go = dialog.get_by_role("button", name="Retry 5,000")
        assert await go.is_disabled()
        await dialog.get_by_label("Type 5,000 to go on").fill("500")
        assert await go.is_disabled()
        await dialog.get_by_label("Type 5,000 to go on").fill("5000")
        await go.click()
        opened.page.set_default_timeout(4 * SECONDS * 1000)
        await dialog.get_by_text("5,000 retried, 0 failed, of 5,000").wait_for()
        await dialog.get_by_role("button", name="Close").click()
        await opened.page.get_by_text("No dead letters").wait_for()
        async with asyncio.timeout(2 * SECONDS):
            while len(cards.handled) < 5000:
                await asyncio.sleep(0.05)
        assert sorted(event["new_value"] for event in cards.handled) == list(range(5000))


async def hold_after(page: Page, act: str, most: int) -> None:
    """Let so many calls of a function leave the page, and hold what it sends behind them on that connection."""
    asked = 0

    def opened(between: WebSocketRoute) -> None:
        engine = between.connect_to_server()

        def sent(frame: str | bytes) -> None:
            nonlocal asked
            asked += act in str(frame)
            if asked <= most or act not in str(frame):
                engine.send(frame)

        between.on_message(sent)

    await page.route_web_socket("**", opened)


async def test_an_engine_that_is_killed_half_way_loses_none_and_the_page_says_what_failed(browser: Browser, tmp_path: Path) -> None:
    count, half, number = 2000, 1000, free_port()
    config = {"adapter": {"name": "kv", "config": {"store_method": "file_based", "file_path": str(tmp_path / "data")}}}

    async def restarted(session: aiohttp.ClientSession, engine: EngineProcess) -> Port:
        return Port(session, "127.0.0.1", engine.port)

    async with aiohttp.ClientSession() as session:
        with running_engine(config=config, port=number) as engine:
            port = await restarted(session, engine)
            writer = await port.connect(name="w", runtime="x", pid=1)
            async with tab(browser, base_of(engine.url)) as opened:
                async with handling(port, "orders::charge", CONFIG) as cards:
                    await fill(writer, count)
                    await hold_after(opened.page, "iii-state::dead_retry", half)
                    await opened.go("#/dead")
                    await opened.page.get_by_text("1,000 loaded of 2,000").wait_for()
                    cards.fails = False
                    await opened.button("Retry 2,000").click()
                    dialog = opened.page.get_by_role("dialog")
                    await dialog.get_by_label("Type 2,000").fill("2000")
                    await dialog.get_by_role("button", name="Retry 2,000").click()
                    await dialog.get_by_text("1,000 retried, 0 failed, of 2,000").wait_for()
                    engine.kill()
                    handled = {event["key"] for event in cards.handled}
                words = str(await dialog.get_by_text(re.compile("retried, [1-9]")).text_content())
                retried, failed = (int(each.replace(",", "")) for each in re.findall(r"([\d,]+) (?:retried|failed)", words))
                assert (retried, failed) == (half, count - half)
                await dialog.get_by_text("OUTCOME_UNKNOWN").first.wait_for()
                await dialog.get_by_role("button", name="Close").click()
                with running_engine(config=config, port=number) as again:
                    port = await restarted(session, again)
                    writer = await port.connect(name="w", runtime="x", pid=1)
                    async with handling(port, "orders::charge", CONFIG, fails=False) as cards:
                        await opened.connected()
                        left = await total(writer)
                        assert left <= count - retried
                        async with asyncio.timeout(2 * SECONDS):
                            while len(handled | {event["key"] for event in cards.handled}) + left < count:
                                await asyncio.sleep(0.05)
                        letters = (await writer.call("iii-state::dead_list", {"limit": 1000}))["result"]["dead"]
                        dead = {letter["key"] for letter in letters}
                        if left <= 1000:
                            everything = handled | {event["key"] for event in cards.handled} | dead
                            assert everything == {f"k-{each}" for each in range(count)}
                        await opened.page.get_by_text(
                            re.compile(f"{left:,} dead letters?, all|loaded of {left:,}|No dead letters")
                        ).wait_for()
                        await port.disconnect()
