"""What an attached worker serves, and to whom: functions with codes, triggers whose queues wait, a prefix, refusals."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from iii_state.client.client import Client
from iii_state.errors import FunctionError
from tests.attach.conftest import WorkerAt
from tests.support.engines.attached import AttachProcess, attached
from tests.support.engines.calls import SOON, call
from tests.support.redis.server import RedisServer
from tests.support.sdk.workers import NODE_NEW, PYTHON_NEW, CallFailedError
from tests.support.waiting import wait_until


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def request(**members: Any) -> bytes:
    return b"{%b}" % b",".join(
        b'"%b":%b' % (name.encode(), value if isinstance(value, bytes) else json.dumps(value).encode())
        for name, value in members.items()
    )


def test_errors_keep_their_codes_and_values_their_own_members(url: str, unique: str, worker_at: WorkerAt) -> None:
    with attached(url, config={"max_value_bytes": 40}) as process:
        process.until_attached()
        worker = worker_at(PYTHON_NEW, url)
        at = {"scope": unique, "key": "k"}
        with pytest.raises(CallFailedError) as refused:
            worker.call("state::set", {**at, "value": "x" * 40})
        assert refused.value.code == "VALUE_TOO_LARGE"
        assert refused.value.message == "value of 42 bytes exceeds the configured max_value_bytes limit of 40"
        with pytest.raises(CallFailedError) as refused:
            worker.call("state::set", {"scope": unique})
        assert refused.value.code == "deserialization_error"
        worker.call("state::set", {**at, "value": {"a": 1}})
        assert worker.call("state::get", at) == {"a": 1}


def test_a_page_is_read_by_whoever_began_to_read(url: str, unique: str, worker_at: WorkerAt) -> None:
    with attached(url) as process:
        process.until_attached()
        reader, other = worker_at(PYTHON_NEW, url), worker_at(PYTHON_NEW, url)
        for key in "abc":
            reader.call("state::set", {"scope": unique, "key": key, "value": key})
        assert sorted(reader.call("state::list_keys", {"scope": unique})["keys"]) == ["a", "b", "c"]
        page = reader.call("state::list_entries", {"scope": unique, "limit": 2})
        rest = {"scope": unique, "cursor": page["next_cursor"]}
        with pytest.raises(CallFailedError) as refused:
            other.call("state::list_entries", rest)
        assert refused.value.code == "INVALID_CURSOR"
        entries = page["entries"] + reader.call("state::list_entries", rest)["entries"]
        assert sorted(entries) == [["a", "a"], ["b", "b"], ["c", "c"]]


def test_a_value_that_stock_engines_cannot_read_is_refused_at_once(ours: str, redis: RedisServer) -> None:
    with attached(ours, "--redis-url", redis.url) as process:
        process.until_attached()
        at = {"scope": "deep", "key": "k"}
        call(ours, "state::set", request(**at, value=nested(127)))
        assert call(ours, "state::get", at) == json.loads(nested(127))
        for function, members in (
            ("state::set", {"value": nested(128)}),
            ("state::update", {"ops": b'[{"type":"set","value":%b}]' % nested(128)}),
        ):
            with pytest.raises(FunctionError, match="127 levels") as refused:
                call(ours, function, request(**at, **members))
            assert refused.value.code == "deserialization_error"
        call(ours, "state::update", request(**at, ops=b'[{"type":"set","value":%b}]' % nested(127)))
        assert call(ours, "state::list", {"scope": "deep"}) == [json.loads(nested(127))]


def test_it_is_listed_as_a_worker_with_a_name_and_a_process(url: str, redis: RedisServer) -> None:
    with attached(url, "--redis-url", redis.url, "--name", "the-state") as process:
        process.until_attached()
        rows = call(url, "engine::workers::list", {})["workers"]
        assert [row["name"] for row in rows if row["name"].startswith("the-state")] == ["the-state"]
        listed = call(url, "engine::functions::list", {})["functions"]
        assert {"state::set", "state::get", "iii-state::triggers"} <= {row["function_id"] for row in listed}
        (metadata,) = [row["metadata"] for row in listed if row["function_id"] == "state::set"]
        assert metadata["iii_state"]["store"] == redis.client.get("iii-state:store").decode()


def test_it_refuses_to_serve_where_state_is_served_from_another_store(url: str, redis: RedisServer, unique: str) -> None:
    with attached(url, "--redis-url", redis.url) as first:
        first.until_attached()
        with attached(url) as second:
            assert second.wait() == 1
            told = second.stderr.text()
        assert "state::set" in told
        assert f"at {url} is served by" in told
        assert "from another store" in told
        assert "Traceback" not in told
        assert call(url, "state::set", {"scope": unique, "key": "k", "value": 1}) == {"old_value": None, "new_value": 1}


def test_it_refuses_to_serve_where_somebody_else_serves_state(url: str, worker_at: WorkerAt) -> None:
    foreign = worker_at(NODE_NEW, url)
    foreign.send("register_function", function_id="state::set", behaviour={"kind": "return", "value": 1}).result()
    foreign.call("engine::functions::list", {})
    with attached(url) as process:
        assert process.wait() == 1
        assert "state::set" in process.stderr.text()
        assert "which is not iii-state" in process.stderr.text()
        assert "--prefix" in process.stderr.text()


def test_with_a_prefix_another_store_is_served_beside_the_first(url: str, redis: RedisServer, worker_at: WorkerAt) -> None:
    with attached(url) as first, attached(url, "--redis-url", redis.url, "--prefix", "shared::state", "--name", "shared") as second:
        first.until_attached()
        second.until_attached()
        worker = worker_at(PYTHON_NEW, url)
        for prefix in ("state", "shared::state"):
            handler = f"on::{prefix}"
            worker.register_function(handler)
            worker.register_trigger(handler, {"scope": "s"}, type=prefix)
            worker.call(f"{prefix}::get", {"scope": "s", "key": "the trigger is registered"})
        worker.call("state::set", {"scope": "s", "key": "k", "value": "own"})
        worker.call("shared::state::set", {"scope": "s", "key": "k", "value": "shared"})
        for prefix, value in (("state", "own"), ("shared::state", "shared")):
            worker.wait_for_calls(f"on::{prefix}")
            assert [payload["new_value"] for payload in worker.payloads(f"on::{prefix}")] == [value]
            assert worker.call(f"{prefix}::get", {"scope": "s", "key": "k"}) == value
        rows = worker.call("shared::state::triggers", {})["triggers"]
        assert [row["function_id"] for row in rows] == ["on::shared::state"]
        assert redis.client.hkeys("state:s") == [b"k"]


def test_a_worker_that_left_burns_no_attempts(url: str, redis: RedisServer, unique: str, worker_at: WorkerAt) -> None:
    handler = f"{unique}::handler"
    config = {"scope": unique, "retry": {"max_attempts": 1}}
    with attached(url, "--redis-url", redis.url) as process:
        process.until_attached()
        writer = worker_at(PYTHON_NEW, url)
        victim = worker_at(PYTHON_NEW, url)
        victim.register_function(handler, "hold")
        victim.register_trigger(handler, config)
        writer.call("state::set", {"scope": unique, "key": "k", "value": 1})
        victim.wait_for_calls(handler)
        victim.kill()
        writer.call("state::set", {"scope": unique, "key": "k", "value": 2})
        successor = worker_at(PYTHON_NEW, url)
        successor.register_function(handler)
        successor.register_trigger(handler, config)
        calls = successor.wait_for_calls(handler, 2)
        assert [(call.payload["new_value"], call.metadata["iii_state"]["attempt"]) for call in calls] == [(1, 1), (2, 1)]
        assert writer.call("iii-state::dead_list", {})["dead"] == []


def test_an_event_waits_for_a_function_that_another_worker_brings(
    url: str, redis: RedisServer, unique: str, worker_at: WorkerAt
) -> None:
    handler, condition = f"{unique}::handler", f"{unique}::condition"
    with attached(url, "--redis-url", redis.url) as process:
        process.until_attached()
        subscriber = worker_at(PYTHON_NEW, url)
        config = {"scope": unique, "condition_function_id": condition, "retry": {"max_attempts": 1}}
        subscriber.register_trigger(handler, config)
        for value in (1, 2):
            subscriber.call("state::set", {"scope": unique, "key": "k", "value": value})
        server = worker_at(NODE_NEW, url)
        server.register_function(handler)
        server.register_function(condition, "pick", path=["new_value"])
        assert [call.payload["new_value"] for call in server.wait_for_calls(handler, 2)] == [1, 2]
        assert subscriber.call("iii-state::dead_list", {})["dead"] == []


def test_a_trigger_that_is_unregistered_leaves_no_queue_and_one_that_is_away_does(ours: str, worker_at: WorkerAt) -> None:
    with attached(ours) as process:
        process.until_attached()
        worker, witness = worker_at(PYTHON_NEW, ours), worker_at(PYTHON_NEW, ours)
        for handler in ("let::go", "goes::away"):
            worker.register_function(handler)
            worker.register_trigger(handler, {"scope": "s"})

        def waiting() -> dict[str, bool]:
            rows = witness.call("iii-state::triggers", {})["triggers"]
            return {row["function_id"]: bool(row["hosts"]) for row in rows}

        assert waiting() == {"let::go": True, "goes::away": True}
        worker.unregister_trigger("let::go")
        wait_until(lambda: waiting() == {"goes::away": True}, "the queue of a trigger that was let go is still there")
        worker.kill()
        wait_until(lambda: waiting() == {"goes::away": False}, "the queue of a trigger that is away is gone")


def test_it_waits_for_an_engine_and_stops_cleanly_without_one() -> None:
    process = AttachProcess("ws://127.0.0.1:1")
    try:
        process.wait_for("no iii engine answers at ws://127.0.0.1:1")
        assert process.stop() == 0
    finally:
        process.kill()


def test_a_trigger_registered_again_keeps_what_waits_for_it(ours: str, unique: str) -> None:
    async def action() -> list[Any]:
        handled: list[Any] = []
        async with Client(ours) as client:
            for number in range(3):
                client.triggers.keep("t", "state", f"{unique}::f", {"scope": unique}, metadata=b'{"m":%d}' % number)
                await client.triggers.taken("t")
                await client.call("state::set", request(scope=unique, key="k", value=number))
            client.serving.register_function(f"{unique}::f", lambda data, _: handled.append(json.loads(bytes(data))["new_value"]))
            async with asyncio.timeout(SOON):
                while len(handled) < 3:
                    await asyncio.sleep(0.01)
        return handled

    with attached(ours) as process:
        process.until_attached()
        assert asyncio.run(action()) == [0, 1, 2]
