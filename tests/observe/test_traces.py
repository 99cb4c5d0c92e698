"""Spans in one process: what each tells, how they hang together over each adapter, retries, batches, sampling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from iii_state import Caller, Engine, FunctionError, State, StateModule, lineages, ops, steps
from iii_state.adapters.redis import RedisAdapter
from iii_state.observe.traces import Traces
from tests.support.redis.server import shared_server
from tests.support.waiting import until

KINDS = ["kv-memory", "kv-file", "redis", "bridge"]


class Recorded:
    """A tracer whose spans stay here."""

    def __init__(self, *, sampled: bool = True) -> None:
        self.provider = TracerProvider() if sampled else TracerProvider(sampler=ParentBased(ALWAYS_OFF))
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("the test's own")

    def named(self, name: str) -> list[ReadableSpan]:
        """The spans of a name that are over, in the order of their ends."""
        return [span for span in self.all if span.name == name]

    @property
    def all(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    async def one(self, name: str, count: int = 1) -> ReadableSpan:
        """The last of so many spans of a name, once they are over."""
        await until(lambda: len(self.named(name)) >= count, f"no span {name}")
        return self.named(name)[-1]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@asynccontextmanager
async def traced(kind: str, directory: Path, recorded: Recorded, **config: Any) -> AsyncIterator[Engine]:
    """An engine over a store of a kind, with a tracer; over a bridge the remote engine has the same one."""
    async with AsyncExitStack() as stack:
        if kind == "kv-file":
            config["adapter"] = {"name": "kv", "config": {"store_method": "file_based", "file_path": str(directory / "data")}}
        elif kind == "redis":
            server = await asyncio.to_thread(shared_server)
            await asyncio.to_thread(server.empty, str(directory))
            config["adapter"] = {"name": "redis", "config": {"redis_url": server.url}}
        elif kind == "bridge":
            remote = await stack.enter_async_context(traced("kv-memory", directory, recorded))
            host, port = await remote.serve("127.0.0.1", 0)
            config["adapter"] = {"name": "bridge", "config": {"bridge_url": f"ws://{host}:{port}"}}
        engine = await stack.enter_async_context(Engine())
        module = StateModule(config, tracing=Traces(recorded.provider))
        await engine.add_module(module)
        if isinstance(module.adapter, RedisAdapter):  # else the first events may go without what they come from
            fanout = module.adapter._shared.fanout
            await until(lambda: fanout.tells_lineages)
        yield engine


@pytest.fixture
async def engine(tmp_path: Path, recorded: Recorded) -> AsyncIterator[Engine]:
    async with traced("kv-memory", tmp_path, recorded) as engine:
        yield engine


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own(span: ReadableSpan) -> int:
    found: int = span.context.span_id
    return found


def trace_id(span: ReadableSpan) -> int:
    found: int = span.context.trace_id
    return found


def told(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def follow(engine: Engine, function_id: str, handler: Any, **config: Any) -> None:
    engine.register_function(function_id, handler)
    await engine.register_trigger({"type": "state", "function_id": function_id, "config": config})


@pytest.mark.parametrize("kind", KINDS)
async def test_one_trace_leads_from_the_caller_to_what_its_handler_writes(kind: str, tmp_path: Path, recorded: Recorded) -> None:
    seen: list[dict[str, Any]] = []
    async with traced(kind, tmp_path, recorded) as engine:
        state = State(engine)

        async def handle(event: dict[str, Any]) -> None:
            seen.append(dict(baggage.get_all()))
            with recorded.tracer.start_as_current_span("work"):
                await state.set("done", event["key"], True)

        await follow(engine, "orders::changed", handle, scope="orders")
        with recorded.tracer.start_as_current_span("request") as request:
            token = context.attach(baggage.set_baggage("user", "ada"))
            await state.set("orders", "1", {"n": 1})
            context.detach(token)
        work = await recorded.one("work")
        await until(lambda: [span for span in recorded.named("state::set") if told(span)["db.collection.name"] == "done"])

    process = recorded.named("process orders::changed")[0]
    assert {trace_id(span) for span in recorded.all} == {request.get_span_context().trace_id}
    assert seen[0]["user"] == "ada"
    by_id = {own(span): span for span in recorded.all}
    chain, span = [], next(span for span in recorded.named("state::set") if told(span)["db.collection.name"] == "done")
    while True:
        chain.append(span.name)
        above = parent(span)
        if above is None:
            break
        span = by_id[above]
    bridged = ["process iii-state::bridge", "send state", "state::set"] if kind == "bridge" else ["send state"]
    remote_first = ["state::set"] if kind == "bridge" and chain.count("state::set") == 4 else []
    assert chain == [*remote_first, "state::set", "work", "process orders::changed", *bridged, "state::set", "request"]
    assert own(process) == parent(work)
    assert (process.kind, recorded.named("send state")[0].kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)


async def test_what_spans_tell(engine: Engine, recorded: Recorded) -> None:
    state = State(engine)
    await follow(engine, "f", lambda event: None, scope="s")
    await state.set("s", "k", "value")
    process = await recorded.one("process f")
    set_, send = await recorded.one("state::set"), await recorded.one("send state")
    assert told(set_) == {
        "db.system.name": "iii_state",
        "db.operation.name": "set",
        "db.query.summary": "state::set",
        "db.collection.name": "s",
        "iii_state.key": "k",
    }
    assert set_.kind == SpanKind.INTERNAL
    assert told(send) == {
        "messaging.system": "iii_state",
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": "s",
        "iii_state.key": "k",
    }
    attributes = told(process)
    assert attributes.pop("messaging.message.id").endswith(tuple("0123456789abcdef"))
    assert attributes.pop("messaging.message.body.size") > 0
    assert attributes == {
        "messaging.system": "iii_state",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.subscription.name": "f",
        "messaging.destination.name": "s",
        "iii_state.key": "k",
        "iii_state.event_type": "state:created",
        "iii_state.attempt": 1,
        "iii_state.fence": 0,
    }
    assert [link.context.span_id for link in process.links] == [own(send)]
    await state.transact("s", [steps.set("a", 1), steps.set("b", 2)])
    assert told(await recorded.one("state::transact"))["db.operation.batch.size"] == 2
    assert told(await recorded.one("send state", 2))["messaging.batch.message_count"] == 2


async def test_a_call_that_reaches_a_store_over_a_network_is_a_client_span(tmp_path: Path, recorded: Recorded) -> None:
    async with traced("redis", tmp_path, recorded) as engine:
        await State(engine).get("s", "k")
    span = await recorded.one("state::get")
    assert span.kind == SpanKind.CLIENT
    attributes = told(span)
    assert (attributes["db.system.name"], attributes["server.address"], attributes["db.namespace"]) == ("redis", "127.0.0.1", "0")
    assert attributes["server.port"] == shared_server().port


@pytest.mark.parametrize(
    "text",
    [
        b'{"scope":"s","key":"k","value":[1]}',
        b' { "scope" : "s" ,\n "key" : "k" , "value" : {"scope":"t"}}',
        b'{"value":{"scope":"t","key":"l"},"key":"k","scope":"s"}',
        b'{"scope":"\\u0073","key":"k","value":1}',
    ],
)
async def test_the_place_of_a_call_is_told_however_it_is_written(text: bytes, engine: Engine, recorded: Recorded) -> None:
    function = engine.functions.find("default", "state::set")
    assert function.handler is not None
    function.handler(text, Caller("a worker"))
    attributes = told(await recorded.one("state::set"))
    assert (attributes["db.collection.name"], attributes["iii_state.key"]) == ("s", "k")


async def test_a_write_that_nobody_wants_sends_nothing(engine: Engine, recorded: Recorded) -> None:
    await follow(engine, "f", lambda event: None, scope="wanted")
    await State(engine).set("unwanted", "k", 1)
    await recorded.one("state::set")
    assert recorded.named("send state") == []


async def test_a_retry_is_a_span_of_its_own_and_linked_to_the_one_before(tmp_path: Path, recorded: Recorded) -> None:
    tries: list[int] = []

    def handle(event: dict[str, Any]) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise FunctionError("NOT_YET", "not yet")

    async with traced("kv-memory", tmp_path, recorded, dispatch={"backoff_ms": 1, "max_backoff_ms": 1}) as engine:
        await follow(engine, "f", handle, scope="s")
        await State(engine).set("s", "k", 1)
        await recorded.one("process f", 3)
    first, second, third = recorded.named("process f")
    send = recorded.named("send state")[0]
    assert [parent(span) for span in (first, second, third)] == [own(send)] * 3
    assert [[link.context.span_id for link in span.links] for span in (first, second, third)] == [
        [own(send)],
        [own(send), own(first)],
        [own(send), own(second)],
    ]
    assert [told(span)["iii_state.attempt"] for span in (first, second, third)] == [1, 2, 3]
    assert [(span.status.status_code, told(span).get("error.type")) for span in (first, third)] == [
        (StatusCode.ERROR, "NOT_YET"),
        (StatusCode.UNSET, None),
    ]


async def test_a_batch_is_linked_to_all_its_writes(engine: Engine, recorded: Recorded) -> None:
    batches: list[int] = []
    config = {"scope": "s", "batch": {"max": 3, "wait_ms": 10_000}}
    await follow(engine, "f", lambda batch: batches.append(len(batch["events"])), **config)
    for key in "abc":
        await State(engine).set("s", key, 1)
    process = await recorded.one("process f")
    assert batches == [3]
    assert told(process)["messaging.batch.message_count"] == 3
    assert {link.context.span_id for link in process.links} == {own(span) for span in recorded.named("send state")}


async def test_an_error_is_the_status_of_its_call(engine: Engine, recorded: Recorded) -> None:
    state = State(engine)
    await state.set("s", "k", "text")
    with pytest.raises(FunctionError):
        await engine.trigger({"function_id": "state::set", "payload": {"scope": "s"}})
    span = await recorded.one("state::set", 2)
    assert (span.status.status_code, told(span)["error.type"]) == (StatusCode.ERROR, "deserialization_error")
    await state.update("s", "k", [ops.increment("n")])
    assert (await recorded.one("state::update")).status.status_code == StatusCode.UNSET


async def test_what_is_not_sampled_leaves_no_spans_and_arrives_all_the_same(tmp_path: Path) -> None:
    recorded, seen = Recorded(sampled=False), []
    async with traced("kv-memory", tmp_path, recorded) as engine:
        state = State(engine)

        async def handle(event: dict[str, Any]) -> None:
            seen.append(event["key"])
            if event["scope"] == "s":
                await state.set("t", "k2", 1)

        await follow(engine, "f", handle)
        await state.set("s", "k", 1)
        await until(lambda: seen == ["k", "k2"])
    assert recorded.all == ()


async def test_a_loop_is_seen_within_a_trace_too(tmp_path: Path, recorded: Recorded) -> None:
    """The hops go on to be counted, in the baggage at first and behind that in a trace of ours."""
    async with traced("kv-memory", tmp_path, recorded, dispatch={"loop_limit": 20}) as engine:
        state = State(engine)

        async def handle(event: dict[str, Any]) -> None:
            await state.update("s", "k", [ops.increment("n")])

        await follow(engine, "f", handle, scope="s")
        await state.set("s", "k", {"n": 0})
        dead = await until(lambda: _dead(engine), "the loop goes on")
        assert "loop" in dead[0]["error"].lower() or "leads to itself" in dead[0]["error"]
        assert (await state.get("s", "k"))["n"] <= 25
    assert len({trace_id(span) for span in recorded.named("process f")}) > 1


async def _dead(engine: Engine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await engine.trigger({"function_id": "iii-state::dead_list", "payload": {}}))["dead"]
    return found


async def test_a_span_of_another_request_is_no_parent_of_what_a_worker_asks(engine: Engine, recorded: Recorded) -> None:
    """A call that comes with a trace is made within that, whatever this process does beside it."""
    foreign = b',"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"'
    with recorded.tracer.start_as_current_span("another request"):
        function = engine.functions.find("default", "state::get")
        assert function.handler is not None
        lineages.inside(foreign, function.handler, b'{"scope":"s","key":"k"}', Caller("a worker"))
        function.handler(b'{"scope":"s","key":"k"}', Caller("a worker"))
    within, alone = recorded.named("state::get")
    assert (f"{trace_id(within):x}".zfill(32), parent(within)) == ("0af7651916cd43dd8448eb211c80319c", 0xB7AD6B7169203331)
    assert parent(alone) is None
    assert trace.get_current_span().get_span_context().is_valid is False
