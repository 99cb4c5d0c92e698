"""Calls over a port: who serves which function, what travels with a call, and what comes back."""

from __future__ import annotations

import uuid

import pytest

from iii_state.engine import Engine
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Port, RawWorker
from tests.support.waiting import until


async def test_the_first_frame_names_the_worker_and_advertises_no_features(worker: RawWorker) -> None:
    assert set(worker.hello) == {"type", "worker_id", "reattach_token"}
    assert worker.hello["type"] == "workerregistered"
    assert uuid.UUID(worker.hello["worker_id"])


async def test_a_builtin_function_is_called_with_the_text_that_was_sent(worker: RawWorker) -> None:
    value = {"z": 1, "a": [1.0, 12345678901234567890, "ü😀\u2028"], "n": None}
    stored = await worker.call("state::set", {"scope": "s", "key": "k", "value": value})
    assert stored["result"] == {"old_value": None, "new_value": value}
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == value


async def test_no_result_is_left_out_and_a_stored_null_is_written(worker: RawWorker) -> None:
    assert "result" not in await worker.call("state::get", {"scope": "s", "key": "none"})
    await worker.call("state::set", {"scope": "s", "key": "null", "value": None})
    outcome = await worker.call("state::get", {"scope": "s", "key": "null"})
    assert outcome["result"] is None
    assert "error" not in outcome


async def test_nobody_is_answered_who_does_not_wait(worker: RawWorker, module: DictModule) -> None:
    data = {"scope": "s", "key": "k", "value": 1}
    await worker.send("invokefunction", function_id="state::set", data=data)
    await worker.send("invokefunction", function_id="state::set", data={**data, "key": "l"}, action={"type": "void"})
    void = {"invocation_id": str(uuid.uuid4()), "action": {"type": "void"}}
    await worker.send("invokefunction", function_id="state::set", data={**data, "key": "m"}, **void)
    await worker.send("invokefunction", function_id="state::fail", data=None, **void)
    await worker.send("invokefunction", function_id="nope", data=None, **void)
    await worker.send("invokefunction", function_id="state::get", data={"scope": "s", "key": "k"}, invocation_id=None)
    assert await worker.settled() == []
    assert set(module.values["s"]) == {"k", "l", "m"}


async def test_enqueue_is_refused_in_words(worker: RawWorker) -> None:
    outcome = await worker.call("state::set", {}, action={"type": "enqueue", "queue": "q"})
    assert outcome["error"]["code"] == "enqueue_error"
    outcome = await worker.call("state::set", {}, action={"type": "later"})
    assert outcome["error"]["code"] == "deserialization_error"


async def test_an_error_of_a_function_keeps_its_code_and_any_other_is_invocation_failed(worker: RawWorker) -> None:
    assert (await worker.call("state::fail", "code"))["error"] == {"code": "MY_CODE", "message": "as asked for"}
    error = (await worker.call("state::fail", {}))["error"]
    assert (error["code"], error["message"]) == ("invocation_failed", "boom")
    assert "RuntimeError" in error["stacktrace"]


async def test_an_unknown_function_is_named_with_the_namespaces_that_have_it(worker: RawWorker, port: Port) -> None:
    error = (await worker.call("f"))["error"]
    assert error == {"code": "function_not_found", "message": "Function f not found in namespace default."}
    for namespace in ("b", "a"):
        there = await port.connect(namespace=namespace)
        await there.send("registerfunction", id="f")
        await there.settled()
    error = (await worker.call("f"))["error"]
    assert error["message"] == "Function f not found in namespace default. It is registered in namespace(s): a, b."
    assert (await worker.call("f", namespace="c"))["error"]["message"].startswith("Function f not found in namespace c.")
    assert (await worker.call("f", namespace=" "))["error"]["code"] == "INVALID_NAMESPACE"


async def test_a_builtin_knows_its_caller_and_does_not_see_him_in_the_payload(port: Port) -> None:
    worker = await port.connect(namespace="mine")
    seen = (await worker.call("echo", {"a": 1}, namespace="default"))["result"]
    assert seen == {"data": {"a": 1}, "worker_id": worker.id, "namespace": "mine"}


async def test_a_worker_executes_under_the_callers_invocation_id_and_its_answer_goes_back(
    worker: RawWorker, other: RawWorker
) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    invocation_id = str(uuid.uuid4())
    sent = {"data": {"a": 1}, "traceparent": "00-1-2-03", "baggage": "x=y", "metadata": {"m": [1]}}
    await worker.send("invokefunction", function_id="f", invocation_id=invocation_id, **sent)
    invocation = await other.next()
    assert invocation == {
        "type": "invokefunction",
        "function_id": "f",
        "invocation_id": invocation_id,
        **sent,
        "data": {"a": 1, "_caller_worker_id": worker.id},
    }
    await other.answer(invocation, result={"ok": True})
    assert await worker.next() == {
        "type": "invocationresult",
        "invocation_id": invocation_id,
        "function_id": "f",
        "result": {"ok": True},
    }


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        ({}, {"_caller_worker_id": "ID"}),
        ({"_caller_worker_id": "forged"}, {"_caller_worker_id": "ID"}),
        ([1], [1]),
        ("text", "text"),
        (None, None),
    ],
)
async def test_a_payload_that_is_an_object_tells_the_callers_id(
    worker: RawWorker, other: RawWorker, data: object, seen: object
) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data=data)
    expected = {"_caller_worker_id": worker.id} if isinstance(seen, dict) else seen
    assert (await other.next())["data"] == expected


async def test_the_executor_gets_a_fresh_uuid_where_the_callers_id_will_not_do(worker: RawWorker, other: RawWorker) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    taken = str(uuid.uuid4())
    for invocation_id in (taken, taken, "seven", 7):
        await worker.send("invokefunction", function_id="f", data=None, invocation_id=invocation_id)
    invocations = [await other.next() for _ in range(4)]
    ids = [invocation["invocation_id"] for invocation in invocations]
    assert ids[0] == taken
    assert len({uuid.UUID(name) for name in ids}) == 4
    for number, invocation in enumerate(invocations):
        await other.answer(invocation, result=number)
    outcomes = [await worker.next() for _ in range(4)]
    assert [(outcome["invocation_id"], outcome["result"]) for outcome in outcomes] == [(taken, 0), (taken, 1), ("seven", 2), (7, 3)]


async def test_a_void_call_reaches_the_worker_with_an_id_and_its_answer_goes_nowhere(worker: RawWorker, other: RawWorker) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data=1, action={"type": "void"}, invocation_id=str(uuid.uuid4()))
    invocation = await other.next()
    assert uuid.UUID(invocation["invocation_id"])
    assert "action" not in invocation
    await other.answer(invocation, result=1)
    await other.settled()
    assert await worker.settled() == []


@pytest.mark.parametrize("null", [{}, {"result": None}, {"result": None, "error": None}])
async def test_a_null_result_of_a_worker_is_none(worker: RawWorker, other: RawWorker, null: dict[str, None]) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data=1, invocation_id="x")
    await other.answer(await other.next(), **null)
    assert await worker.next() == {"type": "invocationresult", "invocation_id": "x", "function_id": "f"}


async def test_a_workers_error_goes_back_as_it_is(worker: RawWorker, other: RawWorker) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    for sent, seen in (
        ({"code": "c", "message": "m", "stacktrace": "s"}, {"code": "c", "message": "m", "stacktrace": "s"}),
        ({"message": "m"}, {"code": "invocation_failed", "message": "m"}),
        ("words", {"code": "invocation_failed", "message": "words"}),
    ):
        await worker.send("invokefunction", function_id="f", data=1, invocation_id="x")
        await other.answer(await other.next(), error=sent, result=1)
        outcome = await worker.next()
        assert outcome["error"] == seen
        assert "result" not in outcome


async def test_results_that_nobody_waits_for_are_ignored(worker: RawWorker, other: RawWorker) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await other.send("invocationresult", invocation_id=str(uuid.uuid4()), function_id="f", result=1)
    await worker.send("invokefunction", function_id="f", data=1, invocation_id="x")
    invocation = await other.next()
    await worker.send("invocationresult", invocation_id=invocation["invocation_id"], function_id="f", result="not mine")
    await worker.settled()
    await other.answer(invocation, result=1)
    await other.answer(invocation, result=2)
    assert (await worker.next())["result"] == 1
    assert await other.settled() == []
    assert await worker.settled() == []


async def test_a_worker_calls_its_own_function(worker: RawWorker) -> None:
    await worker.send("registerfunction", id="f")
    invocation_id = str(uuid.uuid4())
    await worker.send("invokefunction", function_id="f", data={}, invocation_id=invocation_id)
    invocation = await worker.expect("invokefunction")
    assert invocation["invocation_id"] == invocation_id
    assert (await worker.call("echo", 1))["result"]["data"] == 1  # a handler may call while its own call is open
    await worker.answer(invocation, result="done")
    assert (await worker.next())["result"] == "done"


async def test_open_calls_of_a_worker_that_leaves_have_stopped(worker: RawWorker, other: RawWorker, engine: Engine) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data={}, invocation_id="x")
    await other.next()
    await other.socket.close()
    assert (await worker.next())["error"] == {"code": "invocation_stopped", "message": "Invocation stopped"}
    assert (await worker.call("f"))["error"]["code"] == "function_not_found"


async def test_an_answer_for_a_caller_that_has_left_is_dropped(worker: RawWorker, other: RawWorker, engine: Engine) -> None:
    await other.send("registerfunction", id="f")
    await other.settled()
    await worker.send("invokefunction", function_id="f", data={}, invocation_id="x")
    invocation = await other.next()
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 1)
    await other.answer(invocation, result=1)
    assert await other.settled() == []


async def test_workers_that_serve_the_same_function_take_turns_and_stand_in_for_each_other(
    worker: RawWorker, port: Port, engine: Engine
) -> None:
    servers = [await port.connect(name=f"w{number}") for number in range(2)]
    for server in servers:
        await server.send("registerfunction", id="f")
        assert await server.settled() == []
    for _ in range(4):
        await worker.send("invokefunction", function_id="f", data=1)
    await worker.settled()
    assert [len(await server.settled()) for server in servers] == [2, 2]
    await servers[0].socket.close()
    await until(lambda: len(engine.workers) == 2)
    await worker.send("invokefunction", function_id="f", data=1)
    await worker.settled()
    assert len(await servers[1].settled()) == 1


async def test_with_first_wins_the_second_is_rejected_and_follows_when_the_first_has_left(
    session: object, module: DictModule, port: Port
) -> None:
    async with Engine(duplicates="first-wins") as engine:
        there = Port(port.session, *await engine.serve("127.0.0.1", 0))
        first, second = await there.connect(), await there.connect()
        await first.send("registerfunction", id="f")
        await first.settled()
        await second.send("registerfunction", id="f")
        assert await second.settled() == [
            {
                "type": "registrationrejected",
                "code": "FUNCTION_NAMESPACE_CONFLICT",
                "namespace": "default",
                "function_id": "f",
                "owner_worker_id": first.id,
            }
        ]
        caller = await there.connect()
        await caller.send("invokefunction", function_id="f", data=1)
        await caller.send("invokefunction", function_id="f", data=1)
        await caller.settled()
        assert len(await first.settled()) == 2
        await first.socket.close()
        await until(lambda: len(engine.workers) == 2)
        await caller.send("invokefunction", function_id="f", data=1)
        assert (await second.next())["function_id"] == "f"


async def test_a_provider_of_trigger_types_keeps_its_functions(worker: RawWorker, other: RawWorker) -> None:
    for server in (worker, other):
        await server.send("registertriggertype", id="my.state", description="x")
        await server.send("registerfunction", id="my::set")
    assert await worker.settled() == []
    rejected = await other.settled()
    assert [(frame["type"], frame["function_id"], frame["owner_worker_id"]) for frame in rejected] == [
        ("registrationrejected", "my.state", worker.id),
        ("registrationrejected", "my::set", worker.id),
    ]
    for _ in range(3):
        await other.send("invokefunction", function_id="my::set", data=1)
    await other.settled()
    assert len(await worker.settled()) == 3


async def test_a_builtin_id_is_not_given_away(worker: RawWorker) -> None:
    await worker.send("registerfunction", id="state::get")
    rejected = (await worker.settled())[0]
    assert (rejected["type"], rejected["code"]) == ("registrationrejected", "FUNCTION_NAMESPACE_CONFLICT")
    assert uuid.UUID(rejected["owner_worker_id"])
    await worker.call("state::set", {"scope": "s", "key": "k", "value": 1})
    assert (await worker.call("state::get", {"scope": "s", "key": "k"}))["result"] == 1


async def test_only_its_own_worker_unregisters_a_function(worker: RawWorker, other: RawWorker, module: DictModule) -> None:
    await worker.send("registerfunction", id="f")
    await worker.settled()
    await other.send("unregisterfunction", id="f")
    await other.send("unregisterfunction", id="state::get")
    await other.settled()
    assert module.host.has_function("f")
    assert module.host.has_function("state::get")
    await worker.send("unregisterfunction", id="f")
    await worker.settled()
    assert not module.host.has_function("f")


async def test_a_function_that_is_to_be_called_over_http_is_refused_in_words(worker: RawWorker, other: RawWorker) -> None:
    await worker.send("registerfunction", id="f", invocation={"url": "http://127.0.0.1:1", "method": "POST"})
    await worker.settled()
    assert (await other.call("f"))["error"]["code"] == "function_not_invokable"


async def test_watchers_hear_when_a_function_comes_and_when_its_last_server_goes(
    worker: RawWorker, other: RawWorker, module: DictModule, engine: Engine
) -> None:
    changes: list[tuple[str, str, bool]] = []
    module.host.watch_functions(
        lambda namespace, name: changes.append((namespace, name, module.host.has_function(name, namespace)))
    )
    for server in (worker, other):
        await server.send("registerfunction", id="f")
        await server.settled()
    await worker.socket.close()
    await until(lambda: len(engine.workers) == 1)
    assert changes == [("default", "f", True)]
    await other.socket.close()
    await until(lambda: len(engine.workers) == 0)
    assert changes == [("default", "f", True), ("default", "f", False)]


async def test_what_was_registered_before_the_namespace_was_known_moves_into_it(
    worker: RawWorker, other: RawWorker, module: DictModule
) -> None:
    await worker.send("registerfunction", id="f", description="d")
    await worker.send("registertrigger", id="t", trigger_type="state", function_id="f", config={})
    assert (await worker.call("engine::workers::register", {"namespace": "mine", "pid": 1}))["result"] == {"success": True}
    assert module.host.has_function("f", "mine")
    assert not module.host.has_function("f")
    assert module.triggers["t"].namespace == "mine"
    await other.call("state::set", {"scope": "s", "key": "k", "value": 7})
    assert (await worker.expect("invokefunction"))["data"] == 7
    refused = await worker.call("engine::workers::register", {"namespace": " "})
    assert refused["error"]["code"] == "INVALID_NAMESPACE"


async def test_calls_of_one_connection_start_in_the_order_in_which_they_were_sent(worker: RawWorker, module: DictModule) -> None:
    for number in range(200):
        await worker.send("invokefunction", function_id="state::set", data={"scope": "s", "key": "k", "value": number})
        await worker.send("invokefunction", function_id="state::get", data={"scope": "s", "key": "k"}, invocation_id=str(number))
    assert [(await worker.next())["result"] for _ in range(200)] == list(range(200))


async def test_a_slow_call_holds_up_no_other(worker: RawWorker, module: DictModule) -> None:
    await worker.send("invokefunction", function_id="slow::get", data=1, invocation_id="slow")
    assert (await worker.call("echo", 1))["result"]["data"] == 1
    module.slow[0].set_result(b"42")
    assert await worker.next() == {"type": "invocationresult", "invocation_id": "slow", "function_id": "slow::get", "result": 42}


async def test_the_engine_gives_a_worker_up_that_does_not_answer(port: Port, session: object) -> None:
    async with Engine(call_timeout=0.0) as engine:
        there = Port(port.session, *await engine.serve("127.0.0.1", 0))
        caller, silent = await there.connect(), await there.connect()
        await silent.send("registerfunction", id="f")
        await silent.settled()
        await caller.send("invokefunction", function_id="f", data=1, invocation_id="x")
        invocation = await silent.next()
        engine.workers.sweep()
        assert (await caller.next())["error"]["code"] == "TIMEOUT"
        await silent.answer(invocation, result=1)
        await silent.settled()
        assert await caller.settled() == []


@pytest.mark.parametrize(("version", "code"), [("0.12.0", "payload_too_large"), ("0.25.0", None)])
async def test_a_large_call_waits_until_its_worker_has_said_what_it_can_receive(
    worker: RawWorker, other: RawWorker, version: str, code: str | None
) -> None:
    await worker.send("registerfunction", id="f")
    await worker.settled()
    call_id = str(uuid.uuid4())
    await other.send("invokefunction", function_id="f", data="x" * 2**20, invocation_id=call_id)
    assert await other.settled() == []
    assert await worker.settled() == []
    await worker.send("invokefunction", function_id="engine::workers::register", data={"runtime": "python", "version": version})
    if code is None:
        await worker.answer(await worker.expect("invokefunction"))
    assert (await other.expect("invocationresult", invocation_id=call_id)).get("error", {}).get("code") == code
    if code is not None:
        assert await worker.settled() == []
