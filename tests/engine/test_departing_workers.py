"""Workers that go away with events in hand: who waits for whom, what is counted, and what a code alone cannot say."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from iii_state import Engine, StateModule
from iii_state.engine.functions.function import Invocation
from iii_state.errors import NotCarriedOut, WorkerLost
from iii_state.events import DeadLetter
from iii_state.tasks.results import result_of
from tests.support.engines.raw_worker import Frame, Port, RawWorker
from tests.support.redis.server import shared_server
from tests.support.waiting import until

DISPATCH = {"max_attempts": 2, "backoff_ms": 1, "max_backoff_ms": 2}


class Place:
    """An engine with state, and what hands its events out."""

    def __init__(self, engine: Engine, module: StateModule, port: Port) -> None:
        self.engine = engine
        self.module = module
        self.port = port

    async def serving(self, *functions: str, **description: Any) -> RawWorker:
        worker = await self.port.connect(**description)
        for function_id in functions:
            await worker.send("registerfunction", id=function_id)
        await worker.settled()
        return worker

    async def trigger(self, function_id: str, **config: Any) -> None:
        await self.engine.register_trigger({"type": "state", "function_id": function_id, "config": {"scope": "s", **config}})

    async def set(self, *keys: str, value: Any = 1) -> None:
        for key in keys:
            await self.engine.trigger({"function_id": "state::set", "payload": {"scope": "s", "key": key, "value": value}})

    async def dead(self, count: int = 1) -> list[DeadLetter]:
        async with asyncio.timeout(10):
            while len(letters := await result_of(self.module.adapter.admin.dead_letters())) < count:
                await asyncio.sleep(0.005)
        return letters

    async def is_empty(self) -> None:
        async with asyncio.timeout(10):
            while any(queue.waiting or queue.pending for queue in await result_of(self.module.adapter.admin.stats())):
                await asyncio.sleep(0.005)


@asynccontextmanager
async def placed(kind: str = "kv", **dispatch: Any) -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        config: dict[str, Any] = {"dispatch": {**DISPATCH, **dispatch}}
        if kind == "redis":
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty, str(uuid.uuid4()))
            config["adapter"] = {"name": "redis", "config": {"redis_url": server.url}}
        if kind == "bridge":
            remote = await stack.enter_async_context(Engine())
            await remote.add_module(StateModule(config))
            host, number = await remote.serve("127.0.0.1", 0)
            config["adapter"] = {"name": "bridge", "config": {"bridge_url": f"ws://{host}:{number}"}}
        engine = await stack.enter_async_context(Engine())
        module = StateModule(config)
        await engine.add_module(module)
        port = Port(session, *await engine.serve("127.0.0.1", 0))
        stack.push_async_callback(port.disconnect)
        yield Place(engine, module, port)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with placed() as place:
        yield place


@pytest.fixture(params=["kv", "redis", "bridge"])
async def anywhere(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    async with placed(request.param) as place:
        yield place


def key(call: Frame) -> str:
    found: str = call["data"]["key"]
    return found


def marks(call: Frame) -> dict[str, Any]:
    found: dict[str, Any] = call["metadata"]["iii_state"]
    return found


async def calls(worker: RawWorker, count: int) -> list[Frame]:
    return [await worker.expect("invokefunction") for _ in range(count)]


async def gone(place: Place, worker: RawWorker) -> None:
    await worker.socket.close()
    await until(lambda: worker.id not in [known.id for known in place.engine.workers])


async def test_what_a_worker_breaks_off_comes_again_one_by_one_with_nothing_beside_it(anywhere: Place) -> None:
    first = await anywhere.serving("f", "g")
    await anywhere.trigger("f")
    await anywhere.trigger("g", key="a")
    await anywhere.set("a", "b")
    assert sorted(key(call) for call in await calls(first, 3)) == ["a", "a", "b"]
    await gone(anywhere, first)
    second = await anywhere.serving("f", "g")
    seen: list[tuple[str, str]] = []
    for number in range(3):
        (call,) = await calls(second, 1)
        await anywhere.set(f"other-{number}")  # which waits for the one that runs alone
        await asyncio.sleep(0.02)
        others = [frame for frame in await second.settled() if frame["type"] == "invokefunction"]
        assert others == []
        assert marks(call) | {"attempt": 1, "crashes": 1} == marks(call)
        seen.append((call["function_id"], key(call)))
        await second.answer(call, result=None)
        if number < 2:
            (other,) = await calls(second, 1)
            if marks(other).get("crashes"):  # the next suspect came first
                seen.append((other["function_id"], key(other)))
                await second.answer(other, result=None)
                (other,) = await calls(second, 1)
            assert key(other).startswith("other")
            await second.answer(other, result=None)
        if len(seen) == 3:
            break
    assert sorted(seen) == [("f", "a"), ("f", "b"), ("g", "a")]


async def test_after_so_many_crashes_alone_an_event_is_a_dead_letter(anywhere: Place) -> None:
    await anywhere.trigger("f")
    counts = []
    for number in range(3):
        worker = await anywhere.serving("f")
        if not number:
            await anywhere.set("a")
            await anywhere.set("a", value=2)
        (call,) = await calls(worker, 1)
        counts.append((marks(call)["attempt"], marks(call).get("crashes", 0)))
        await gone(anywhere, worker)
    assert counts == [(1, 0), (1, 1), (1, 2)]
    (letter,) = await anywhere.dead()
    assert letter.error == "worker_lost: its worker went away in mid-call 3 times, the last 2 with this event alone"
    worker = await anywhere.serving("f")
    (call,) = await calls(worker, 1)
    assert call["data"]["new_value"] == 2


async def test_crashes_and_failures_are_counted_beside_each_other(anywhere: Place) -> None:
    await anywhere.trigger("f")
    worker = await anywhere.serving("f")
    await anywhere.set("a")
    (call,) = await calls(worker, 1)
    await worker.answer(call, error={"code": "x", "message": "not now"})
    (call,) = await calls(worker, 1)
    assert marks(call)["attempt"] == 2
    await gone(anywhere, worker)
    worker = await anywhere.serving("f")
    (call,) = await calls(worker, 1)
    assert (marks(call)["attempt"], marks(call)["crashes"]) == (2, 1)
    await worker.answer(call, error={"code": "x", "message": "not now"})
    (letter,) = await anywhere.dead()
    assert (letter.attempts, letter.error) == (2, "x: not now")


async def test_another_worker_of_the_function_goes_on_meanwhile(place: Place) -> None:
    first, second = await place.serving("f"), await place.serving("f")
    await place.trigger("f")
    await place.set("a", "b")
    (broken,), (held,) = await calls(first, 1), await calls(second, 1)
    await gone(place, first)
    third = await place.serving("f")
    (call,) = await calls(third, 1)  # the idle one of the two
    assert (key(call), marks(call)["crashes"]) == (key(broken), 1)
    await place.set("c", "d")
    assert {key(call) for call in await calls(second, 2)} == {"c", "d"}
    assert await third.settled() == []
    await third.answer(call, result=None)
    await second.answer(held, result=None)
    await third.settled()
    await place.set("e", "f")
    assert len(await calls(third, 1) + await calls(second, 1)) == 2


async def test_a_condition_that_takes_its_worker_along_is_found_too(place: Place) -> None:
    await place.trigger("f", condition_function_id="c")
    handler = await place.serving("f")
    for crashes in range(3):
        worker = await place.serving("c")
        if not crashes:
            await place.set("a")
        await calls(worker, 1)
        await gone(place, worker)
    (letter,) = await place.dead()
    assert "3 times" in letter.error
    assert await handler.settled() == []


async def test_a_handler_in_the_process_waits_for_nobody(place: Place) -> None:
    worker = await place.serving("f")
    await place.trigger("f")
    await place.set("a", "b", "c")
    await calls(worker, 3)
    await gone(place, worker)
    gate, running = asyncio.Event(), []

    async def handle(event: Any) -> None:
        running.append(event["key"])
        await gate.wait()

    place.engine.register_function("f", handle)
    await until(lambda: len(running) == 3)
    gate.set()


async def test_a_suspect_that_waits_is_given_back_when_the_engine_stops(place: Place) -> None:
    worker = await place.serving("f")
    await place.trigger("f")
    await place.set("a")
    await calls(worker, 1)
    await gone(place, worker)
    worker = await place.serving("f", "g")
    await place.trigger("g", key="z")
    (call,) = await calls(worker, 1)
    await place.set("z")  # for both, which wait
    await asyncio.sleep(0.02)
    await worker.answer(call, result=None)
    assert {call["function_id"] for call in await calls(worker, 2)} == {"f", "g"}
    await gone(place, worker)
    await place.engine.stop()  # bounded, with two that wait


async def test_what_was_never_sent_to_a_worker_costs_nothing(place: Place) -> None:
    worker = await place.serving("f")
    await place.trigger("f")
    await place.set("a", value="x" * 2**20)  # which waits until the worker has said what it can receive
    assert await worker.settled() == []
    await gone(place, worker)
    worker = await place.serving("f", runtime="node", name="n", version="0.22.1")
    (call,) = await calls(worker, 1)
    assert "crashes" not in marks(call)


@pytest.mark.parametrize("code", ["invocation_stopped", "channel_send_failed", "payload_too_large", "function_not_found"])
@pytest.mark.parametrize("fate", [None, "not_carried_out", "worker_lost"])
async def test_a_workers_own_error_is_an_attempt_whatever_it_says(code: str, fate: str | None, anywhere: Place) -> None:
    worker = await anywhere.serving("f")
    await anywhere.trigger("f")
    await anywhere.set("a")
    error = {"code": code, "message": "Function f not found", **({"fate": fate} if fate else {})}
    for attempt in (1, 2):
        (call,) = await calls(worker, 1)
        assert marks(call)["attempt"] == attempt
        await worker.answer(call, error=error)
    (letter,) = await anywhere.dead()
    assert letter.attempts == 2
    assert code in letter.error
    assert await worker.settled() == []


@pytest.mark.parametrize("error", [{"code": "x", "message": "y", "final": True}, {}, [], "words"])
async def test_a_workers_error_is_an_attempt_of_several(error: Any, anywhere: Place) -> None:
    worker = await anywhere.serving("f")
    await anywhere.trigger("f")
    await anywhere.set("a")
    for _ in range(2):
        (call,) = await calls(worker, 1)
        await worker.answer(call, error=error)
    (letter,) = await anywhere.dead()
    assert letter.attempts == 2


@pytest.mark.parametrize("error", [None, False, 0, ""])
async def test_an_error_that_is_none_is_a_success(error: Any, place: Place) -> None:
    worker = await place.serving("f")
    await place.trigger("f")
    await place.set("a")
    (call,) = await calls(worker, 1)
    await worker.answer(call, error=error)
    await place.is_empty()
    assert await result_of(place.module.adapter.admin.dead_letters()) == []


async def test_a_module_that_passes_on_the_fate_of_a_call_of_its_own_has_failed_itself(place: Place) -> None:
    class Passing:
        name = "passing"

        async def start(self, host: Any) -> None:
            host.register_function("passing::missing", lambda data, caller: host.invoke("nobody::there", bytes(data)))
            host.register_function("passing::dies", lambda data, caller: host.invoke("dies", bytes(data)))

        async def stop(self) -> None:
            pass

        async def health(self) -> str | None:
            return None

    await place.engine.add_module(Passing())
    await place.trigger("passing::missing")
    await place.set("a")
    (letter,) = await place.dead()
    assert (letter.attempts, letter.error.partition(":")[0]) == (2, "function_not_found")


async def test_a_call_that_has_not_left_as_a_whole_is_no_crash() -> None:
    async with placed("kv") as place:
        worker = await place.serving("f", runtime="python", version="0.25.0")
        served = place.engine.functions.find("default", "f")
        reached = place.engine.functions.call(served, Invocation(b"1"))
        await worker.expect("invokefunction")
        large = [place.engine.functions.call(served, Invocation(b'"%b"' % (b"x" * 8_000_000))) for _ in range(2)]
        next(each for each in place.engine.workers if each.id == worker.id).link.abort()
        assert asyncio.isfuture(reached)
        with pytest.raises(WorkerLost):
            await reached
        for call in large:
            assert asyncio.isfuture(call)
            with pytest.raises(NotCarriedOut):
                await call
