"""Changes as they happen: exact where all are shown, and honest where some are left out; no writer waits for a page."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import aiohttp
from playwright.async_api import Browser

from tests.support.engines.processes import EngineProcess, running_engine
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.redis.server import RedisServer
from tests.web.browser import SECONDS, Tab, base_of, tab
from tests.web.measured import keep
from tests.web.test_lists import walk
from tests.web.workers import hears


async def seen_and_left_out(opened: Tab) -> tuple[int, int]:
    """What the screen says it has seen, and not seen."""
    words = str(await opened.page.locator(".live .count").text_content()).replace(",", "")
    seen, left_out = re.search(r"(\d+) changes? seen", words), re.search(r"(\d+) left out", words)
    return int(seen[1]) if seen else 0, int(left_out[1]) if left_out else 0


async def write(worker: RawWorker, count: int, value: object = 1, keys: int = 5000) -> None:
    """So many writes, which no one waits for, in frames of their own."""
    text = json.dumps(value)
    start = '{"type":"invokefunction","function_id":"state::set","action":{"type":"void"},"data":{"scope":"s","key":"k-'
    for number in range(count):
        await worker.socket.send_str(f'{start}{number % keys}","value":{text}}}}}')


async def test_a_change_is_shown_with_its_difference_and_what_caused_it(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope=s")
    await hears(opened, worker, "s")
    await worker.call("state::set", {"scope": "s", "key": "<i>", "value": {"a": 1, "b": [1, 2]}, "ttl_ms": 300})
    await worker.call("state::set", {"scope": "other", "key": "unwanted", "value": 1})
    await opened.page.get_by_role("option", name="expired").wait_for()
    assert await opened.page.get_by_text("unwanted").count() == 0
    await opened.page.get_by_role("option", name="created s / <i>").click()
    await opened.page.get_by_role("row", name="the whole value").wait_for()
    await opened.page.get_by_text("Paused").wait_for()
    await opened.page.get_by_role("option", name="expired").click()
    await opened.page.get_by_text("because it expired").wait_for()


async def test_the_engine_filters_and_the_address_keeps_the_filter(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope_prefix=a%2F&kind=deleted")
    listed = '{"type":"registertrigger"'
    async with asyncio.timeout(SECONDS):
        while not [frame for frame in opened.sent if listed in frame]:
            await asyncio.sleep(0.01)
    config = json.loads(next(frame for frame in opened.sent if listed in frame))["config"]
    assert (config["scope_prefix"], config["event_types"], config["on_full"]) == ("a/", ["state:deleted"], "drop_oldest")
    async with asyncio.timeout(SECONDS):
        while not await opened.page.get_by_role("option", name="deleted a/1 / k").count():
            for scope in ("a/1", "b"):
                await worker.call("state::set", {"scope": scope, "key": "k", "value": 1})
                await worker.call("state::delete", {"scope": scope, "key": "k"})
            await asyncio.sleep(0.05)
    rows = await opened.page.get_by_role("listbox", name="Changes").get_by_role("option").all_text_contents()
    assert all("deleted" in row and "a/1" in row for row in rows)
    await opened.page.get_by_label("Kind").select_option("created")
    await opened.page.wait_for_url("**/#/live?*kind=created")


async def test_a_pause_is_exact_and_says_how_much_is_new(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope=s")
    await hears(opened, worker, "s")
    await opened.page.keyboard.press("Space")
    await opened.page.get_by_text("Paused").wait_for()
    shown = await opened.page.get_by_role("listbox", name="Changes").get_by_role("option").all_text_contents()
    await write(worker, 37)
    await opened.page.get_by_text(re.compile(r"^37 new$|37 new")).wait_for()
    assert await opened.page.get_by_role("listbox", name="Changes").get_by_role("option").all_text_contents() == shown
    await opened.page.keyboard.press("Space")
    await opened.page.get_by_role("option", name="k-36").wait_for()
    assert await opened.page.get_by_text("Paused").count() == 0


async def test_a_long_pause_keeps_the_latest_and_says_how_many_it_could_not_keep(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope=s")
    await hears(opened, worker, "s")
    already = sum(await seen_and_left_out(opened))
    await opened.page.keyboard.press("Space")
    count, step = 3000, 500
    for written in range(step, count + 1, step):
        await write(worker, step)
        async with asyncio.timeout(2 * SECONDS):
            while sum(await seen_and_left_out(opened)) < already + written:
                await asyncio.sleep(0.05)
    assert await seen_and_left_out(opened) == (already + count, 0)
    await opened.page.get_by_text("3,000 new").wait_for()
    await opened.page.keyboard.press("Space")
    await opened.page.get_by_text("1,000 left out").wait_for()
    assert await seen_and_left_out(opened) == (already + count - 1000, 1000)


async def test_what_the_page_changes_itself_is_marked(opened: Tab, port: Port) -> None:
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope=s")
    await hears(opened, worker, "s")
    await opened.page.evaluate(
        """async () => {
            const {engine} = await import("/ui/parts/engine.js");
            const {noteOwn} = await import("/ui/screens/edit.js");
            noteOwn("s", "mine");
            await engine.call("state::set", {scope: "s", key: "mine", value: 1});
        }"""
    )
    await opened.page.get_by_role("option", name=re.compile("mine.*by this page")).wait_for()


async def test_what_is_left_out_adds_up_and_no_writer_fails(opened: Tab, port: Port) -> None:
    await check_sums(opened, port, 40_000)


async def test_what_is_left_out_of_a_redis_adds_up_too(browser: Browser) -> None:
    with RedisServer() as server, running_engine(["--adapter", "redis", "--redis-url", server.url]) as engine:
        async with aiohttp.ClientSession() as session, tab(browser, base_of(engine.url)) as opened:
            await check_sums(opened, Port(session, "127.0.0.1", engine.port), 6_000)


async def check_sums(opened: Tab, port: Port, count: int) -> None:
    """Write much faster than a page can read, and count on both sides. So few are seen that the page still has all of its rows."""
    worker = await port.connect(name="w", runtime="x", pid=1)
    await opened.go("#/live?scope=s")
    await hears(opened, worker, "s")
    seen, left_out = await seen_and_left_out(opened)
    already = seen + left_out
    await worker.settled()
    await write(worker, count)
    answer = await worker.call("state::set", {"scope": "s", "key": "last", "value": 1})
    assert "error" not in answer
    async with asyncio.timeout(4 * SECONDS):
        while sum(await seen_and_left_out(opened)) < already + count + 1:
            await asyncio.sleep(0.1)
    seen, left_out = await seen_and_left_out(opened)
    assert seen + left_out == already + count + 1
    assert left_out > 0
    await opened.page.keyboard.press("Space")
    gaps = [row for row in await walk(opened, "Changes, the newest on top") if "left out" in row]
    assert sum(int(re.sub(r"[^0-9]", "", row.partition("⋯")[2])) for row in gaps) == left_out
    assert await opened.page.locator("*").count() < 1500


def processor_seconds(pid: int) -> float:
    """What a process has had of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def at_rate(worker: RawWorker, seconds: float, per_second: int, value: object) -> int:
    """Writes at a steady rate for a time; how many there were."""
    loop, written, step = asyncio.get_running_loop(), 0, per_second // 20
    begun = loop.time()
    while (now := loop.time()) - begun < seconds:
        await write(worker, step, value)
        written += step
        await asyncio.sleep(max(0.0, begun + written / per_second - now))
    return written


async def test_it_costs_little_at_10_000_changes_a_second(opened: Tab, port: Port, engine: EngineProcess, tmp_path: Path) -> None:
    """Measured, and kept; what is asserted is that the page stays small and neither side falls behind for good."""
    worker = await port.connect(name="w", runtime="x", pid=1)
    value = {"n": 1, "text": "x" * 60}
    figures: dict[str, float] = {}
    for name in ("without", "rates", "live"):
        if name == "rates":
            await opened.go("#/rates")
            await opened.page.locator("svg").first.wait_for()
        if name == "live":
            await opened.go("#/live?scope=s")
            await hears(opened, worker, "s")
        before, began = processor_seconds(engine.process.pid), time.monotonic()
        written = await at_rate(worker, 8, 10_000, value)
        await worker.call("state::get", {"scope": "s", "key": "k-1"})
        took = time.monotonic() - began
        figures[f"{name}_core_percent"] = round(100 * (processor_seconds(engine.process.pid) - before) / took, 1)
        figures[f"{name}_writes_per_second"] = round(written / took)
    async with asyncio.timeout(SECONDS):
        while not (await seen_and_left_out(opened))[1]:
            await asyncio.sleep(0.1)
    seen, left_out = await seen_and_left_out(opened)
    figures |= {"seen": seen, "left_out": left_out}
    figures["heap_mb"] = await opened.page.evaluate("performance.memory.usedJSHeapSize / 1048576")
    figures["nodes"] = await opened.page.locator("*").count()
    keep("live", figures, tmp_path)
    assert figures["nodes"] < 1500
    assert figures["heap_mb"] < 120
