"""The trace of a write goes on to conditions and handlers, and what these write within it is counted."""

from __future__ import annotations

import re
from typing import Any

import aiohttp
import pytest

from iii_state import Engine, Event, State
from iii_state.lineages import HOPS_IN_ONE_TRACE
from tests.support.engines.raw_worker import Frame, Port, RawWorker

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = f"00-{TRACE_ID}-b7ad6b7169203331-01"
OURS = re.compile(r"00-696969737461([0-9a-f]{4})[0-9a-f]{16}-[0-9a-f]{16}-01")
AT = {"scope": "s", "key": "k"}


def child(trace: str) -> str:
    """The trace as an SDK sends it on: a span of its own."""
    return f"{trace[:36]}00000000000000aa{trace[-3:]}"


def hops(call: Frame) -> int:
    """The hops that a call carries, in the trace's id or in the baggage."""
    if found := OURS.fullmatch(call["traceparent"]):
        return int(found[1], 16)
    return int(call["baggage"].rpartition("iii-state-hops=")[2])


@pytest.fixture
async def port(embedded: Engine, session: aiohttp.ClientSession) -> Port:
    return Port(session, *await embedded.serve("127.0.0.1", 0))


async def handling(port: Port, function_id: str = "f", **config: Any) -> RawWorker:
    """A worker that is called with the events of scope s."""
    worker = await port.connect(runtime="node", version="0.22.1", name="w")
    if "condition_function_id" in config:
        await worker.send("registerfunction", id=config["condition_function_id"])
    await worker.send("registerfunction", id=function_id)
    await worker.send("registertrigger", id="t", trigger_type="state", function_id=function_id, config={"scope": "s", **config})
    await worker.call("engine::triggers::list", {})
    return worker


async def next_call(worker: RawWorker, function_id: str = "f") -> Frame:
    return await worker.expect("invokefunction", function_id=function_id)


async def test_trace_and_baggage_of_a_write_go_on_to_condition_and_handler(port: Port) -> None:
    worker = await handling(port, condition_function_id="c")
    writer = await port.connect(runtime="node", version="0.22.1", name="writer")
    await writer.call("state::set", {**AT, "value": 1}, traceparent=TRACE, baggage='user=ada,"odd"')
    asked = await next_call(worker, "c")
    assert (asked["traceparent"], asked["baggage"]) == (TRACE, 'user=ada,"odd",iii-state-hops=1')
    await worker.answer(asked, result=True)
    call = await next_call(worker)
    assert (call["traceparent"], call["baggage"]) == (asked["traceparent"], asked["baggage"])
    await worker.answer(call)
    await port.disconnect()


@pytest.mark.parametrize("given", [{}, {"traceparent": "nonsense"}, {"traceparent": 7, "baggage": None}, {"baggage": "x" * 9000}])
async def test_without_a_trace_that_can_be_used_there_is_one_of_ours(port: Port, given: dict[str, Any]) -> None:
    worker = await handling(port)
    writer = await port.connect(runtime="node", version="0.22.1", name="writer")
    await writer.call("state::set", {**AT, "value": 1}, **given)
    call = await next_call(worker)
    assert hops(call) == 1
    assert "baggage" not in call
    await worker.answer(call)
    await port.disconnect()


async def test_what_a_handler_writes_within_its_trace_is_one_hop_further_whatever_becomes_of_the_baggage(port: Port) -> None:
    worker = await handling(port)
    writer = await port.connect(runtime="node", version="0.22.1", name="writer")
    await writer.call("state::set", {**AT, "value": 0}, traceparent=TRACE)
    seen = []
    for number in range(1, 13):
        call = await next_call(worker)
        seen.append((hops(call), call["traceparent"][3:35] == TRACE_ID))
        kept = {"baggage": call["baggage"]} if number % 2 and "baggage" in call else {}
        await worker.call("state::set", {**AT, "value": number}, traceparent=child(call["traceparent"]), **kept)
        await worker.answer(call)
    assert seen == [(number, number <= HOPS_IN_ONE_TRACE) for number in range(1, 13)]
    await worker.answer(await next_call(worker))
    await port.disconnect()


async def test_others_who_write_within_the_same_trace_are_no_loop(port: Port) -> None:
    """One request of a program writes a hundred times, each in the trace of that request, while the events are handled."""
    worker = await handling(port)
    writer = await port.connect(runtime="node", version="0.22.1", name="writer")
    await writer.call("state::set", {**AT, "value": 0}, traceparent=TRACE)
    most = 0
    for number in range(1, 100):
        call = await next_call(worker)
        most = max(most, hops(call))
        await writer.call("state::set", {**AT, "value": number}, traceparent=child(TRACE))
        await worker.answer(call)
    assert most <= 9  # and not a hundred
    await worker.answer(await next_call(worker))
    await port.disconnect()


async def test_a_python_handler_hands_it_on_to_the_workers_that_it_calls(port: Port, embedded: Engine) -> None:
    state, counted = State(embedded), []
    worker = await port.connect(runtime="node", version="0.22.1", name="w")
    await worker.send("registerfunction", id="writes")
    await worker.call("engine::functions::list", {})

    @state.on_change(scope="s", key="k")
    async def changed(event: Event) -> None:
        await embedded.trigger({"function_id": "writes", "payload": event.new_value})

    @state.on_change(scope="s", key="written")
    async def written(event: Event) -> None:
        await embedded.trigger({"function_id": "writes", "payload": event.new_value})

    await state.set("s", "k", 1)
    for _ in range(2):
        call = await next_call(worker, "writes")
        counted.append(hops(call))
        await worker.call("state::set", {"scope": "s", "key": "written", "value": 2}, traceparent=child(call["traceparent"]))
        await worker.answer(call)
    last = await next_call(worker, "writes")
    assert [*counted, hops(last)] == [1, 2, 3]
    await worker.answer(last)
    await port.disconnect()


async def test_a_worker_that_tells_no_trace_and_writes_what_it_handles_again_and_again_is_warned_of(
    port: Port, embedded: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be something else: so there is a warning, and nothing else, and none where the key is written by others."""
    worker = await handling(port)
    writer = await port.connect(runtime="node", version="0.22.1", name="writer")

    async def rounds(by: RawWorker, count: int, at: dict[str, str] = AT) -> None:
        await by.call("state::set", {**at, "value": 0})
        for number in range(count):
            call = await next_call(worker)
            await by.call("state::set", {**at, "value": number})
            await worker.answer(call)
        await worker.answer(await next_call(worker))

    await rounds(writer, 120)
    await rounds(worker, 60)
    await rounds(writer, 1)
    await rounds(worker, 60)
    assert "perhaps a loop" not in caplog.text
    await rounds(worker, 110)
    await rounds(worker, 110, {"scope": "s", "key": "other"})  # of which the next minute may tell
    (warning,) = [record.getMessage() for record in caplog.records if "perhaps a loop" in record.getMessage()]
    assert "worker w has written the key that it was handling 100 times in a row" in warning
    assert "in f (scope 's', key 'k')" in warning
    answer = await embedded.trigger({"function_id": "iii-state::triggers", "payload": {}})
    assert not any("looping" in row for row in answer["triggers"])
    await port.disconnect()


async def test_such_a_worker_is_warned_of_also_where_it_writes_more_keys_than_are_followed(
    kv_engine: Engine, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iii_state.state.dispatch.loops.MOST_CHAINS", 5)
    port = Port(session, *await kv_engine.serve("127.0.0.1", 0))
    worker = await handling(port)
    for number in range(20):
        await worker.call("state::set", {"scope": "s", "key": f"k{number}", "value": 0})
    for _ in range(20 * 105):
        call = await next_call(worker)
        place = {"scope": "s", "key": call["data"]["key"]}
        await worker.send("invokefunction", function_id="state::set", data={**place, "value": 1})
        await worker.answer(call)
    await worker.call("engine::triggers::list", {})
    assert caplog.text.count("perhaps a loop") == 1
    await port.disconnect()
