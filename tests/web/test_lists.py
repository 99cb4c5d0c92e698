"""Lists of any length: 10,000 scopes and 100,000 keys in a Redis, each reachable, none twice, and soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from playwright.async_api import Browser

from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.redis.server import RedisServer
from tests.web.browser import Tab, base_of, tab
from tests.web.measured import keep

KEYS, SCOPES = 100_000, 10_000


@pytest.fixture
def large() -> Iterator[EngineProcess]:
    """An engine over a Redis that holds all that."""
    with RedisServer() as server:
        client = redis.Redis.from_url(server.url)
        with client.pipeline(transaction=False) as pipeline:
            for number in range(SCOPES):
                pipeline.hset(f"state:scope-{number:05}", "k", "{}")
            pipeline.execute()
        for start in range(0, KEYS, 10_000):
            client.hset("state:all", mapping={f"key-{number:06}": "1" for number in range(start, start + 10_000)})
        client.close()
        with running_engine(config={"adapter": {"name": "redis", "config": {"redis_url": server.url}}}) as engine:
            yield engine


async def walk(opened: Tab, name: str, is_whole: str = "") -> list[str]:
    """Every name of a list, from its first row to its last, as somebody who scrolls sees them, once the page says `is_whole`."""
    return list(
        await opened.page.evaluate(
            """async ([name, isWhole]) => {
                const list = document.querySelector(`[role=listbox][aria-label="${name}"]`);
                const found = new Map();
                let still = 0, at = -1;
                list.scrollTop = 0;
                while (still < (document.body.textContent.includes(isWhole) ? 20 : 3000)) {
                    for (const row of list.querySelectorAll("[role=option]")) {
                        const place = Number(row.getAttribute("aria-posinset"));
                        if (found.has(place) && found.get(place) !== row.textContent) throw new Error(`two at ${place}`);
                        found.set(place, row.textContent);
                    }
                    list.scrollTop += list.clientHeight;
                    list.dispatchEvent(new Event("scroll"));
                    still = list.scrollTop === at ? still + 1 : 0;
                    if (still) await new Promise((resolve) => setTimeout(resolve, 10));
                    at = list.scrollTop;
                }
                return [...found].sort((a, b) => a[0] - b[0]).map(([, text]) => text);
            }""",
            [name, is_whole],
        )
    )


async def test_every_scope_and_every_key_can_be_reached_and_none_is_there_twice(browser: Browser, large: EngineProcess) -> None:
    async with tab(browser, base_of(large.url)) as opened:
        await opened.go("#/data?scope=all")
        await opened.page.get_by_text("500 loaded, more follow").wait_for()
        await opened.page.get_by_text("10,001 scopes, all").wait_for()
        assert await walk(opened, "Scopes", "10,001 scopes, all") == ["all", *(f"scope-{number:05}" for number in range(SCOPES))]
        assert await opened.page.locator("*").count() < 1500
        opened.page.set_default_timeout(120_000)
        assert await walk(opened, "Keys", "100,000 keys, all") == [f"key-{number:06}" for number in range(KEYS)]
        await opened.page.get_by_text("100,000 keys, all").wait_for()
        assert await opened.page.locator("*").count() < 1500


async def test_what_is_searched_for_comes_from_the_engine_and_what_is_filtered_from_what_is_loaded(
    browser: Browser, large: EngineProcess
) -> None:
    async with tab(browser, base_of(large.url)) as opened:
        await opened.go("#/data?scope=all")
        await opened.page.get_by_text("500 loaded, more follow").wait_for()
        await opened.page.get_by_label("Filter", exact=True).fill("000123")
        await opened.page.get_by_text("1 of 500 loaded, more follow").wait_for()
        await opened.page.get_by_label("Filter", exact=True).fill("099123")
        await opened.page.get_by_text("None of those that are loaded holds that").wait_for()
        await opened.page.get_by_label("Filter", exact=True).fill("")
        await opened.page.get_by_label("Search", exact=True).fill("key-0991")
        await opened.page.get_by_text("100 keys, all").wait_for()
        await opened.page.get_by_label("Order: ascending").click()
        first = opened.page.get_by_role("listbox", name="Keys").get_by_role("option").first
        await first.filter(has_text="key-099199").wait_for()


async def test_it_is_there_soon(browser: Browser, large: EngineProcess, tmp_path: Path) -> None:
    """A figure is measured and kept; that it is small is not asserted, since other things run beside the tests."""
    async with tab(browser, base_of(large.url)) as opened:
        await opened.go("#/data?scope=all")
        await opened.page.get_by_text("500 loaded, more follow").wait_for()
        await opened.page.get_by_text("10,001 scopes, all").wait_for()
        await opened.page.evaluate(
            """() => {
                const keep = (list) => (window.tasks ??= []).push(...list.getEntries().map((each) => each.duration));
                new PerformanceObserver(keep).observe({type: "longtask", buffered: true});
            }"""
        )
        figures = await opened.page.evaluate(
            """async () => {
                const waitFor = (found) => new Promise((resolve) => {
                    const look = () => found() ? resolve(performance.now()) : requestAnimationFrame(look);
                    look();
                });
                const type = (id, text) => {
                    const field = document.getElementById(id);
                    field.value = text;
                    field.dispatchEvent(new Event("input", {bubbles: true}));
                };
                const paint = performance.getEntriesByName("first-contentful-paint")[0];
                let began = performance.now();
                type("scope-filter", "09123");
                const rowsOf = (list) => document.querySelectorAll(`[aria-label=${list}] [role=option]`);
                const filtered = await waitFor(() => rowsOf("Scopes").length === 1) - began;
                type("scope-filter", "");
                location.hash = "#/data?scope=scope-00000";
                await waitFor(() => rowsOf("Keys")[0]?.textContent === "k");
                began = performance.now();
                location.hash = "#/data?scope=all";
                const rows = await waitFor(() => rowsOf("Keys")[0]?.textContent === "key-000000") - began;
                const heap = performance.memory.usedJSHeapSize / 1048576;
                const tasks = window.tasks ?? [];
                return {shell_ms: paint.startTime, rows_ms: rows, filter_ms: filtered, long_tasks_ms: tasks, heap_mb: heap};
            }"""
        )
        figures["requests"] = len(opened.requests)
        keep("lists", figures, tmp_path)
        assert figures["requests"] <= 20
