"""What operators see and do on the page: a fleet of engines, triggers and their states, rates."""

from __future__ import annotations

import asyncio
import re

import aiohttp
import pytest
from playwright.async_api import Browser

from iii_state.state.features import FEATURES
from tests.support.engines.processes import running_engine
from tests.support.engines.raw_worker import Port
from tests.support.redis.server import RedisServer
from tests.web.browser import Tab, base_of, tab
from tests.web.workers import handling

CONFIG = {"scope": "s", "retry": {"max_attempts": 1}, "retention_ms": "forever"}


async def test_a_fleet_is_shown_and_an_engine_that_dies_is_gone_and_comes_back(browser: Browser) -> None:
    with RedisServer() as server:
        adapter = {"name": "redis", "config": {"redis_url": server.url, "heartbeat_ttl_ms": 1000}}
        with running_engine(config={"adapter": adapter}) as first:
            async with aiohttp.ClientSession() as session, tab(browser, base_of(first.url)) as opened:
                with running_engine(config={"adapter": adapter}) as second:
                    port = Port(session, "127.0.0.1", second.port)
                    async with handling(port, "orders::charge", CONFIG, fails=False):
                        await opened.go("#/fleet")
                        other = opened.page.get_by_role("row", name=re.compile(f":{second.process.pid} "))
                        await other.get_by_text("● there").wait_for()
                        assert await opened.page.get_by_text("(this one)").count() == 1
                        await other.get_by_text("1 trigger").wait_for()
                    second.kill()
                await opened.page.get_by_text("✕ gone").wait_for()
                await opened.page.get_by_role("link", name="Overview").click()
                await opened.page.get_by_text("has gone").wait_for()
                await opened.page.get_by_text("has no host").wait_for()


async def test_triggers_are_searched_and_shown_with_what_waits(opened: Tab, port: Port) -> None:
    writer = await port.connect(name="w", runtime="x", pid=1)
    async with handling(port, "orders::charge", CONFIG), handling(port, "mail::send", {"scope": "other"}):
        for number in range(3):
            await writer.call("state::set", {"scope": "s", "key": f"k{number}", "value": 1})
        await opened.go("#/triggers")
        await opened.page.get_by_text("2 of 2 subscriptions").wait_for()
        await opened.page.get_by_role("row", name="orders::charge").get_by_role("link", name="3").wait_for()
        await opened.page.get_by_label("Search functions").fill("mail")
        await opened.page.get_by_text("1 of 2 subscriptions").wait_for()
        await opened.page.get_by_role("link", name="mail::send").click()
        await opened.page.get_by_role("treeitem", name='scope: "other"').wait_for()
        await opened.page.get_by_text("● served").wait_for()


async def test_a_trigger_is_paused_purged_and_resumed(opened: Tab, port: Port) -> None:
    if "triggers.pause" not in FEATURES:
        pytest.skip("this version has no iii-state::trigger_pause")
    writer = await port.connect(name="w", runtime="x", pid=1)
    async with handling(port, "orders::charge", CONFIG, fails=False) as cards:
        await opened.go("#/triggers")
        await opened.page.get_by_role("link", name="orders::charge").click()
        dialog = opened.page.get_by_role("dialog")
        await opened.button("Pause").click()
        await dialog.get_by_role("button", name="Pause").click()
        await opened.page.get_by_text("‖ paused").wait_for()
        for number in range(4):
            await writer.call("state::set", {"scope": "s", "key": f"k{number}", "value": 1})
        await opened.button("Purge …").click()
        await dialog.get_by_text("Drop the 4 events that wait?").wait_for()
        await dialog.get_by_role("button", name="Purge (4)").click()
        await opened.page.get_by_role("row", name="orders::charge").get_by_role("cell", name="0").first.wait_for()
        await opened.button("Resume").click()
        await dialog.get_by_role("button", name="Resume").click()
        await opened.page.get_by_text("● served").wait_for()
        await writer.call("state::set", {"scope": "s", "key": "after", "value": 1})
        async with asyncio.timeout(15):
            while not cards.handled:
                await asyncio.sleep(0.05)
        assert [event["key"] for event in cards.handled] == ["after"]


async def test_rates_are_drawn_and_told_as_numbers(opened: Tab, port: Port) -> None:
    writer = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/rates")
    chart = opened.page.get_by_role("img", name=re.compile("^Calls of state: now [1-9]"))

    async def write() -> None:
        while True:
            await writer.call("state::set", {"scope": "s", "key": "k", "value": 1})

    task = asyncio.create_task(write())
    try:
        await chart.wait_for()
        await opened.button("As a table").click()
        await opened.page.get_by_role("columnheader", name="Latency, median ms").wait_for()
    finally:
        task.cancel()
