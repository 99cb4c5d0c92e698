"""One trace through two engines on one Redis, of which one is killed while a handler runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.engines.processes import EngineProcess
from tests.support.engines.raw_worker import Frame, RawWorker
from tests.support.redis.server import RedisServer
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
BAGGAGE = "user=ada"


class TracedEngine(EngineProcess):
    """An engine whose spans can be asked for."""

    def __init__(self, redis: RedisServer) -> None:
        super().__init__((redis.url,), serve=(sys.executable, "-c", _STARTED))


_STARTED = """
import asyncio, sys
from tests.observe.traced_engine import main
asyncio.run(main(sys.argv[-1]))
"""


@asynccontextmanager
async def worker(engine: EngineProcess, session: aiohttp.ClientSession) -> AsyncIterator[RawWorker]:
    """A connection of its own."""
    async with session.ws_connect(engine.url) as socket:
        connected = RawWorker(socket)
        connected.hello = await connected.next()
        yield connected


async def follow(handler: RawWorker) -> None:
    """Handle what is written to `orders`."""
    await handler.send("registerfunction", id="orders::changed")
    await handler.send("registertrigger", id="t", trigger_type="state", function_id="orders::changed", config={"scope": "orders"})
    await until(lambda: is_hosted(handler))


async def is_hosted(handler: RawWorker) -> bool:
    rows = (await handler.call("iii-state::triggers", {}))["result"]["triggers"]
    return any(row["function_id"] == "orders::changed" and row["hosts"] for row in rows)


async def spans(asking: RawWorker) -> list[dict[str, Any]]:
    """Those of its engine that are over."""
    found: list[dict[str, Any]] = (await asking.call("test::spans", {}))["result"]
    return found


def of(found: list[dict[str, Any]], name: str, **attributes: Any) -> dict[str, Any]:
    """The one span of a name with these attributes."""
    wanted = {name.replace("__", "."): value for name, value in attributes.items()}
    (span,) = [
        span
        for span in found
        if span["name"] == name and all(span["attributes"].get(each) == value for each, value in wanted.items())
    ]
    return span


def span_id(span: dict[str, Any]) -> str:
    return str(span["context"]["span_id"]).removeprefix("0x")


def parent(span: dict[str, Any]) -> str:
    return str(span["parent_id"]).removeprefix("0x")


async def write(caller: RawWorker, key: str) -> None:
    request = {"scope": "orders", "key": key, "value": 1}
    assert "error" not in await caller.call("state::set", request, traceparent=CALLER, baggage=BAGGAGE)


async def test_one_trace_shows_the_chain_where_an_engine_is_killed_while_a_handler_runs() -> None:
    with RedisServer() as redis:
        first = await asyncio.to_thread(TracedEngine, redis)
        second = await asyncio.to_thread(TracedEngine, redis)
        try:
            await _show_the_chain(first, second, redis)
        finally:
            for engine in (first, second):
                engine.kill()


async def _show_the_chain(first: TracedEngine, second: TracedEngine, redis: RedisServer) -> None:
    async with aiohttp.ClientSession() as session, worker(second, session) as there:
        async with worker(first, session) as here:
            await follow(here)
            await until(lambda: _tells_lineages(here, redis))
            await write(here, "1")
            broken_off = await here.expect("invokefunction", function_id="orders::changed", data=_event("1"))
            before = await spans(here)
            first.kill()
        await follow(there)
        taken_over = await there.expect("invokefunction", function_id="orders::changed", data=_event("1"))
        within = {"traceparent": taken_over["traceparent"], "baggage": taken_over["baggage"]}
        await there.call("state::set", {"scope": "done", "key": "1", "value": 1}, **within)
        await there.answer(taken_over, result=None)
        after = await until(lambda: _with(there, "process orders::changed"))

    set_, send = of(before, "state::set", iii_state__key="1"), of(before, "send state", iii_state__key="1")
    process, done = of(after, "process orders::changed"), of(after, "state::set", db__collection__name="done")
    assert {span["context"]["trace_id"] for span in (set_, send, process, done)} == {f"0x{TRACE}"}
    assert [parent(span) for span in (set_, send, process, done)] == [
        "b7ad6b7169203331",
        span_id(set_),
        span_id(send),
        span_id(process),
    ]
    for call, attempt in ((broken_off, 1), (taken_over, taken_over["metadata"]["iii_state"]["attempt"])):
        assert call["traceparent"].startswith(f"00-{TRACE}-")
        assert call["baggage"].split(",")[0] == BAGGAGE
        assert call["metadata"]["iii_state"]["attempt"] == attempt
    assert taken_over["traceparent"] != broken_off["traceparent"], "the attempt that was broken off has a span of its own"
    assert process["attributes"]["iii_state.fence"] > 0
    assert [
        span["name"] for span in before if span["name"].startswith("process") and span["attributes"]["iii_state.key"] == "1"
    ] == []


def _event(key: str) -> dict[str, Any]:
    return {
        "type": "state",
        "event_type": "state:created",
        "scope": "orders",
        "key": key,
        "old_value": None,
        "new_value": 1,
    }


async def _with(asking: RawWorker, name: str) -> list[dict[str, Any]]:
    found = await spans(asking)
    return found if any(span["name"] == name for span in found) else []


async def _tells_lineages(here: RawWorker, redis: RedisServer) -> bool:
    """Whether events bring what they come from by now: both engines have said that they read that."""
    await write(here, "a probe")
    call: Frame = await here.expect("invokefunction", function_id="orders::changed")
    await here.answer(call, result=None)
    return str(call["traceparent"]).startswith(f"00-{TRACE}")
