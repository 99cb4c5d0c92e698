"""Triggers of an engine with a bridge: they fire for every change of the remote's state, whoever makes it, once and in order."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from iii_state import FunctionError
from iii_state.adapters.bridge.events import read_event
from iii_state.adapters.bridge.remote.queues import MAX_SHOWN
from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.values import decode
from tests.support.bridge.engines import State, bridge_to, running, stock
from tests.support.engines.processes import EngineProcess
from tests.support.redis.proxy import proxy_to
from tests.support.waiting import until

QUICKLY = {"retry": {"max_attempts": 3, "backoff_ms": 1, "max_backoff_ms": 5}}


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def test_a_trigger_fires_for_every_change_whoever_makes_it() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge, running(bridge_to(remote.url)) as other:
        await bridge.watch(scope="s")
        await bridge("set", scope="s", key="k", value=1)
        await remote("set", scope="s", key="k", value=None)
        await other("update", scope="s", key="k", ops=[{"type": "set", "value": {"a": 1}}])
        await other("set", scope="elsewhere", key="k", value=1)
        await bridge("delete", scope="s", key="k")
        await until(lambda: len(bridge.seen) == 4)
        assert bridge.seen[1] == {
            "type": "state",
            "event_type": "state:updated",
            "scope": "s",
            "key": "k",
            "old_value": 1,
            "new_value": None,
        }
        assert [event["event_type"].removeprefix("state:") for event in bridge.seen] == ["created", "updated", "updated", "deleted"]
        assert [list(metadata) for metadata in bridge.metadata] == [["iii_state"]] * 4
        assert len({metadata["iii_state"]["event_id"] for metadata in bridge.metadata}) == 4


async def test_engines_with_bridges_to_one_remote_share_a_subscription() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as first, running(bridge_to(remote.url)) as second:
        for state in (first, second):
            await state.watch(scope="s")
            await state.watch("everywhere", scope="t", delivery="broadcast")
        for number in range(100):
            await remote("set", scope="s", key=str(number), value=number)
        await until(lambda: len(first.seen) + len(second.seen) == 100)
        assert sorted(first.values_seen() + second.values_seen()) == list(range(100))
        assert first.seen
        assert second.seen
        await remote("set", scope="t", key="k", value="all")
        await until(lambda: first.values_seen().count("all") == second.values_seen().count("all") == 1)


async def test_a_handler_that_fails_is_called_again_and_its_event_is_a_dead_letter_in_the_end() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        attempts: list[tuple[int, int]] = []

        def fail(event: dict[str, Any], metadata: dict[str, Any]) -> None:
            attempts.append((event["new_value"], metadata["iii_state"]["attempt"]))
            if event["new_value"] == 1:
                raise ValueError("not this one")

        bridge.engine.register_function("orders::changed", fail)
        await bridge.engine.register_trigger(
            {"type": "state", "function_id": "orders::changed", "config": {"scope": "s", **QUICKLY}}
        )
        for number in (1, 2):
            await remote("set", scope="s", key="k", value=number)
        await until(lambda: len(attempts) == 4)
        assert attempts == [(1, 1), (1, 2), (1, 3), (2, 1)]
        (letter,) = (await bridge("iii-state::dead_show"))["dead"]
        assert (letter["function_id"], letter["attempts"], letter["event"]["new_value"]) == ("orders::changed", 3, 1)
        assert "not this one" in letter["error"]
        assert await bridge("iii-state::dead_retry", function_id="orders::changed") == {"retried": 1}
        await until(lambda: len(attempts) == 7)
        await until(lambda: _has_dead_letters(bridge, 1))
        assert await bridge("iii-state::dead_drop", id=letter["id"]) == {"dropped": 1}
        assert (await remote("iii-state::dead_list"))["dead"] == []


async def test_all_dead_letters_of_a_function_are_seen_through_a_bridge() -> None:
    """More than one answer holds."""
    async with running() as remote, running(bridge_to(remote.url)) as bridge:

        def fail(event: dict[str, Any]) -> None:
            raise ValueError("never")

        bridge.engine.register_function("fails", fail)
        config = {"scope": "s", "retry": {"max_attempts": 1}}
        await bridge.engine.register_trigger({"type": "state", "function_id": "fails", "config": config})
        count = MAX_SHOWN + 1
        await asyncio.gather(*(remote("set", scope="s", key=f"k{number}", value=1) for number in range(count)))

        async def all_are_dead() -> bool:
            (row,) = (await remote("iii-state::triggers"))["triggers"]
            return bool(row["dead"] == count)

        await until(all_are_dead)
        listed = await bridge("iii-state::dead_list", limit=1)
        assert listed["total"] == count


async def test_dead_letters_of_a_broadcast_are_named_after_their_function() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:

        def fail(event: dict[str, Any]) -> None:
            raise ValueError("never")

        bridge.engine.register_function("orders::changed", fail)
        config = {"delivery": "broadcast", "retry": {"max_attempts": 1}}
        await bridge.engine.register_trigger({"type": "state", "function_id": "orders::changed", "config": config})
        await remote("set", scope="s", key="k", value=1)
        await until(lambda: _has_dead_letters(bridge, 1))
        (letter,) = (await bridge("iii-state::dead_list", function_id="orders::changed"))["dead"]
        assert letter["function_id"] == "orders::changed"


async def test_dead_letters_are_listed_behind_one_of_them() -> None:
    async with running() as state:

        def fail(event: dict[str, Any]) -> None:
            raise ValueError("never")

        state.engine.register_function("fails", fail)
        await state.engine.register_trigger({"type": "state", "function_id": "fails", "config": {"retry": {"max_attempts": 1}}})
        for number in range(5):
            await state("set", scope="s", key="k", value=number)
        await until(lambda: _has_dead_letters(state, 5))
        everything = (await state("iii-state::dead_list"))["dead"]
        assert (await state("iii-state::dead_list", after=everything[1]["id"], limit=2))["dead"] == everything[2:4]
        assert (await state("iii-state::dead_show", after=everything[4]["id"]))["dead"] == []
        with pytest.raises(FunctionError, match="to list those after it"):
            await state("iii-state::dead_list", after="nowhere")


async def _has_dead_letters(state: State, count: int) -> bool:
    return len((await state("iii-state::dead_list"))["dead"]) == count


async def test_conditions_are_evaluated_where_the_trigger_is() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        bridge.engine.register_function("is_even", lambda event: event["new_value"] % 2 == 0)
        await bridge.watch(scope="s", condition_function_id="is_even")
        for number in range(6):
            await remote("set", scope="s", key=str(number), value=number)
        await until(lambda: len(bridge.seen) == 3)
        assert sorted(bridge.values_seen()) == [0, 2, 4]


async def test_a_trigger_that_is_let_go_leaves_nothing_at_the_remote() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        bridge.engine.register_function("f", lambda event: None)
        trigger = await bridge.engine.register_trigger({"type": "state", "function_id": "f", "config": {}})
        assert len((await remote("iii-state::triggers"))["triggers"]) == 1
        await trigger.unregister()
        await bridge("set", scope="s", key="k", value=1)
        assert (await remote("iii-state::triggers"))["triggers"] == []
        assert (await bridge("iii-state::triggers"))["triggers"] == []


async def test_events_wait_at_the_remote_while_the_worker_is_away() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        seen: list[Any] = []
        async with Client(bridge.url, About("worker")) as worker:
            worker.serving.register_function("f", lambda data, caller: seen.append(decode(data)["new_value"]))
            await worker.triggers.register("state", "f", {"scope": "s"})
            await remote("set", scope="s", key="k", value=0)
            await until(lambda: seen == [0])
        for number in range(1, 4):
            await remote("set", scope="s", key="k", value=number)
        await until(lambda: _waits(remote, 3))
        async with Client(bridge.url, About("worker")) as worker:
            worker.serving.register_function("f", lambda data, caller: seen.append(decode(data)["new_value"]))
            await worker.triggers.register("state", "f", {"scope": "s"})
            await until(lambda: len(seen) == 4)
        assert seen == [0, 1, 2, 3]


async def _waits(state: State, count: int) -> bool:
    rows = (await state("iii-state::triggers"))["triggers"]
    left: int = sum(row["waiting"] + row["pending"] for row in rows)
    return left == count


async def test_an_event_whose_function_is_away_waits_at_the_remote_and_costs_no_attempt() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        config = {"scope": "s", "retry": {"max_attempts": 1, "timeout_ms": 50}}
        await bridge.engine.register_trigger({"type": "state", "function_id": "watch", "config": config})
        await remote("set", scope="s", key="k", value=1)
        (row,) = (await remote("iii-state::triggers"))["triggers"]
        assert (row["waiting"], row["pending"]) == (1, 0)
        bridge.engine.register_function("watch", lambda event, metadata: bridge.metadata.append(metadata))
        await until(lambda: bool(bridge.metadata))
        assert bridge.metadata[0]["iii_state"]["attempt"] == 1


async def test_events_survive_connections_that_break() -> None:
    randomly = random.Random(11)
    async with (
        running() as remote,
        proxy_to(_port(remote.url)) as proxy,
        running(bridge_to(f"ws://127.0.0.1:{proxy.port}", call_timeout_ms=60_000)) as bridge,
    ):
        await bridge.watch(scope="s")
        proxy.reply_bytes = lambda: randomly.randint(1000, 20_000)
        proxy.cut_all()
        for number in range(600):
            await remote("set", scope="s", key=str(number % 7), value=number)
            if number % 20 == 0:
                await asyncio.sleep(0.002)
        await until(lambda: len(set(bridge.values_seen())) == 600)
        assert proxy.cuts > 3
        _assert_in_order(bridge.seen)


def _assert_in_order(seen: list[dict[str, Any]]) -> None:
    """Each key's events in the order of the writes, of which the last handled may come again."""
    last: dict[str, int] = {}
    for event in seen:
        assert event["new_value"] >= last.get(event["key"], -1)
        last[event["key"]] = event["new_value"]


async def test_what_an_engine_that_is_killed_had_not_handled_is_delivered_to_the_next() -> None:
    async with running() as remote:
        begun: list[int] = []
        let_go = asyncio.Event()

        async def handle(data: Any) -> None:
            begun.append(decode(data)["new_value"])
            await let_go.wait()

        async def worker_of(url: str) -> Client:
            worker = await Client(url, About("worker")).__aenter__()
            worker.serving.register_function("f", lambda data, caller: asyncio.ensure_future(handle(bytes(data))))
            await worker.triggers.register("state", "f", {"scope": "s"})
            return worker

        engine = await asyncio.to_thread(EngineProcess, ["--bridge-url", remote.url])
        try:
            worker = await worker_of(engine.url)
            for number in range(300):
                await remote("set", scope="s", key=str(number % 150), value=number)
            await until(lambda: len(begun) == 64)
            await asyncio.to_thread(engine.kill)
            await worker.__aexit__()
            for number in range(300, 350):
                await remote("set", scope="s", key=str(number), value=number)
            let_go.set()
            begun.clear()
            engine = await asyncio.to_thread(EngineProcess, ["--bridge-url", remote.url])
            worker = await worker_of(engine.url)
            await until(lambda: len(begun) == 350)
            assert sorted(begun) == list(range(350))
            await until(lambda: _waits(remote, 0))
            await worker.__aexit__()
        finally:
            await asyncio.to_thread(engine.kill)


async def test_a_remote_that_is_killed_delivers_what_was_not_acknowledged(tmp_path: Path) -> None:
    arguments = ["--file-path", str(tmp_path / "data")]
    remote = await asyncio.to_thread(EngineProcess, arguments)
    try:
        async with running(bridge_to(remote.url, call_timeout_ms=20_000)) as bridge:
            await bridge.watch(scope="s")
            for number in range(200):
                await bridge("set", scope="s", key=str(number % 5), value=number)
            remote.kill()
            remote = await asyncio.to_thread(EngineProcess, arguments, port=remote.port)
            await bridge("set", scope="s", key="0", value=200)
            await until(lambda: set(bridge.values_seen()) == set(range(201)))
    finally:
        remote.kill()


async def test_a_chain_of_three_engines() -> None:
    async with running() as store, running(bridge_to(store.url)) as middle, running(bridge_to(middle.url)) as bridge:
        await bridge.watch(scope="s")
        await middle.watch("middle", scope="s")
        for number in range(50):
            await (store, middle, bridge)[number % 3]("set", scope="s", key="k", value=number)
        await until(lambda: len(bridge.seen) == len(middle.seen) == 50)
        assert bridge.values_seen() == middle.values_seen() == list(range(50))
        with pytest.raises(FunctionError, match="deserialization_error"):
            await bridge("set", scope="s", key="k")
        assert await bridge.increment() == 1
        assert await bridge.module.health() is None
    assert bridge.module.adapter.store == store.module.adapter.store


async def test_the_events_of_a_remote_that_calls_once_are_queued_here() -> None:
    async with stock() as (_, url), running(bridge_to(url)) as bridge:
        attempts: list[int] = []

        def fail_once(event: dict[str, Any], metadata: dict[str, Any]) -> None:
            attempts.append(metadata["iii_state"]["attempt"])
            if len(attempts) == 1:
                raise ValueError("once")

        bridge.engine.register_function("fails", fail_once)
        await bridge.engine.register_trigger({"type": "state", "function_id": "fails", "config": {"scope": "t", **QUICKLY}})
        await bridge.watch(scope="s")
        for number in range(20):
            await bridge("set", scope="s", key="k", value=number)
        await bridge("set", scope="t", key="k", value=1)
        await until(lambda: len(bridge.seen) == 20 and len(attempts) == 2)
        assert bridge.values_seen() == list(range(20))
        assert "_caller_worker_id" not in bridge.seen[0]
        assert attempts == [1, 2]


async def test_dead_letters_that_are_kept_here_go_when_they_are_too_old() -> None:
    async with stock() as (_, url), running({**bridge_to(url), "dispatch": {"dead_letter_retention_ms": 500}}) as bridge:

        def fail(event: dict[str, Any]) -> None:
            raise ValueError("never")

        bridge.engine.register_function("fails", fail)
        await bridge.engine.register_trigger({"type": "state", "function_id": "fails", "config": {"retry": {"max_attempts": 1}}})
        for number in range(3):
            await bridge("set", scope="s", key="k", value=number)

        async def all_are_gone() -> bool:
            (row,) = (await bridge("iii-state::triggers"))["triggers"]
            return (row["dead"], row["dropped"]) == (0, 3)

        await until(all_are_gone)


async def test_a_trigger_that_is_registered_while_the_remote_is_away_is_registered_there_later() -> None:
    async with running() as remote:
        port = _port(remote.url)
    async with running(bridge_to(f"ws://127.0.0.1:{port}")) as bridge:
        await bridge.watch(scope="s")
        async with running(port=port) as remote:
            await until(lambda: _has_triggers(remote))
            await remote("set", scope="s", key="k", value=1)
            await until(lambda: bridge.values_seen() == [1])


async def _has_triggers(state: State) -> bool:
    return bool((await state("iii-state::triggers"))["triggers"])


def test_an_event_has_the_cause_that_its_payload_tells_where_the_id_does_not() -> None:
    """Behind a stock engine that hands no metadata on, say; what is not known here is none."""
    event = b'{"type":"state","event_type":"state:deleted","scope":"s","key":"k","old_value":1,"new_value":null%b}'
    told = {
        b"": None,
        b',"cause":"expired"': "expired",
        b',"cause":"foreign"': "foreign",
        b',"cause":"x"': None,
        b',"cause":7': None,
    }
    assert {text: read_event(event % text, "id-1").cause for text in told} == told
