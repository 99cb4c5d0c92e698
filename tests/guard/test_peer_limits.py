"""Limits of a connection and of a token: what is over them is refused, or is not read yet, and costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iii_state.wire.limits import Rate
from tests.support.engines.dict_module import DictModule
from tests.support.engines.raw_worker import Frame, RawWorker
from tests.support.engines.with_tokens import Guarded, code, guarded
from tests.support.slow import slow
from tests.support.waiting import until


@asynccontextmanager
async def engine_with(
    tmp_path: Path, token: dict[str, Any] | None = None, module: DictModule | None = None, **limits: Any
) -> AsyncIterator[Guarded]:
    """An engine with limits of a connection, and those of the token `own`; with a module, that one in place of state."""
    entries = {"root": {}, "own": {} if token is None else {"limits": token}, "own 2": {} if token is None else {"limits": token}}
    config = {"server": {"limits": limits}}
    async with guarded(tmp_path / "tokens.yaml", entries, config, with_state=module is None) as engine:
        if module is not None:
            await engine.engine.add_module(module)
        yield engine


async def rejected(worker: RawWorker) -> list[Frame]:
    return [frame for frame in await worker.settled() if frame["type"] == "registrationrejected"]


async def failed(worker: RawWorker) -> list[Frame]:
    await worker.call("engine::triggers::list", {})  # answered behind what has been registered
    return [frame for frame in await worker.settled() if frame["type"] == "triggerregistrationresult"]


async def register_trigger(worker: RawWorker, trigger_id: str, scope: str = "s") -> None:
    await worker.send("registertrigger", id=trigger_id, trigger_type="state", function_id="f", config={"scope": scope})


# --- messages


async def test_a_tokens_messages_are_no_larger_than_its_own_limit_and_that_of_all(tmp_path: Path) -> None:
    async with engine_with(tmp_path, {"message_bytes": 2000}, message_bytes=4000) as engine:
        own, root = await engine.join("own"), await engine.join("root")
        assert code(await own.call("state::get", {"scope": "s", "key": "k" * 1000})) is None
        assert code(await root.call("state::get", {"scope": "s", "key": "k" * 3000})) is None
        await own.send("invokefunction", function_id="state::get", data={"scope": "s", "key": "k" * 3000})
        assert await own.closed() == 1009
        await root.send("invokefunction", function_id="state::get", data={"scope": "s", "key": "k" * 5000})
        assert await root.closed() == 1009


# --- registrations


@pytest.mark.parametrize("count", [3000, slow(100_000)])
async def test_registrations_beyond_the_limit_are_refused_in_bounded_memory(tmp_path: Path, count: int) -> None:
    async with engine_with(tmp_path, registrations=1000) as engine:
        own, root = await engine.join("own"), await engine.join("root")
        for number in range(count):
            await own.socket.send_str(f'{{"type":"registerfunction","id":"f{number}"}}')
            if number % 1000 == 999:
                await own.settled()
        assert len(list(engine.engine.functions)) < 1100
        assert code(await root.call(f"f{count - 1}", {})) == "function_not_found"
        await own.send("registerfunction", id="one-more")
        (refused,) = await rejected(own)
        assert refused["error"]["code"] == "LIMIT_EXCEEDED"
        await own.send("unregisterfunction", id="f0")
        await own.send("registerfunction", id="one-more")
        assert await rejected(own) == []
        await own.send("registerfunction", id="f1")  # one that is there already is none more
        assert await rejected(own) == []


async def test_triggers_are_limited_by_themselves_and_what_goes_makes_room(tmp_path: Path) -> None:
    async with engine_with(tmp_path, subscriptions=2) as engine:
        own = await engine.join("own")
        for number in range(3):
            await register_trigger(own, f"t{number}", f"s{number}")
        (refused,) = await failed(own)
        assert (refused["id"], refused["error"]["code"]) == ("t2", "LIMIT_EXCEEDED")
        await register_trigger(own, "t1", "another")
        await own.send("unregistertrigger", id="t0", trigger_type="state")
        await register_trigger(own, "t2")
        assert await failed(own) == []


async def test_triggers_that_outlive_their_connections_count_for_the_name(tmp_path: Path) -> None:
    """Else somebody who connects again and again would have as many as he likes."""
    async with engine_with(tmp_path, subscriptions=2) as engine:
        answers = []
        for _ in range(3):
            own = await engine.join("own")
            wanted = {"trigger_type": "state", "function_id": "f", "config": {"scope": "s"}}
            answers.append(await own.call("engine::register_trigger", wanted))
            await own.socket.close()
        assert [code(answer) for answer in answers] == [None, None, "LIMIT_EXCEEDED"]
        root = await engine.join("root")
        assert (await root.call("engine::unregister_trigger", {"id": answers[0]["result"]["id"]}))["result"]["removed"]
        assert code(await root.call("engine::register_trigger", wanted)) is None


async def test_a_tokens_connections_share_its_registrations_and_give_them_back(tmp_path: Path) -> None:
    async with engine_with(tmp_path, {"registrations": 3, "subscriptions": 1}) as engine:
        first, second = await engine.join("own"), await engine.join("own 2")
        for worker, name in ((first, "a"), (second, "b"), (first, "c")):
            await worker.send("registerfunction", id=name)
            await worker.settled()
        await second.send("registerfunction", id="d")
        (refused,) = await rejected(second)
        assert "all connections of the token 'own' together" in refused["error"]["message"]
        await register_trigger(second, "t")
        assert [frame["error"]["code"] for frame in await failed(second)] == ["LIMIT_EXCEEDED"]
        await first.socket.close()
        await until(lambda: len(engine.engine.workers) == 1)
        await second.send("registerfunction", id="d")
        await register_trigger(second, "t")
        assert await failed(second) == []


async def test_nothing_is_counted_any_more_when_all_have_left(tmp_path: Path) -> None:
    async with engine_with(tmp_path) as engine:
        own = await engine.join("own")
        await own.send("registertriggertype", id="clock", description="x")
        for number in range(20):
            await own.send("registerfunction", id=f"f{number % 7}", description="x" * number)
            await register_trigger(own, f"t{number % 5}", f"s{number}")
            await own.send("registertrigger", id="bad", trigger_type="state", function_id="f", config={"scope": number})
        await own.call("engine::workers::register", {"name": "own", "pid": 1, "namespace": "elsewhere"})
        await failed(own)
        ledger = engine.engine.workers.ledger
        assert len(ledger) == 2
        await own.socket.close()
        await until(lambda: len(ledger) == 0)


async def test_texts_of_registrations_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_state.engine.ledger.MAX_BYTES", 1_000_000)
    async with engine_with(tmp_path) as engine:
        own = await engine.join("own")
        for number in range(5):
            await own.send("registerfunction", id=f"f{number}", description="x" * 250_000)
        refused = await rejected(own)
        assert [frame["error"]["code"] for frame in refused] == ["LIMIT_EXCEEDED"] * 2
        assert "bytes of texts" in refused[0]["error"]["message"]


async def test_channels_are_limited_and_those_that_expire_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iii_state.engine.channels.MAX_CHANNELS", 3)
    async with engine_with(tmp_path) as engine:
        own, root = await engine.join("own"), await engine.join("root")
        answers = [code(await own.call("engine::channels::create", {})) for _ in range(4)]
        assert answers == [None, None, None, "LIMIT_EXCEEDED"]
        assert code(await root.call("engine::channels::create", {})) is None
        engine.engine.server.channels.tick(301)
        assert code(await own.call("engine::channels::create", {})) is None


# --- calls and messages


async def slow_calls(module: DictModule, worker: RawWorker, numbers: range) -> None:
    for number in numbers:
        await worker.send("invokefunction", function_id="slow::get", data=1, invocation_id=f"s{number}")
    await asyncio.sleep(0)


def has_begun(module: DictModule, number: int) -> bool:
    return len(module.slow) > number


async def test_calls_in_flight_of_a_connection_and_of_a_token_wait_to_be_read(tmp_path: Path) -> None:
    module = DictModule()
    async with engine_with(tmp_path, {"calls_in_flight": 10}, module, calls_in_flight=6) as engine:
        first, second, root = await engine.join("own"), await engine.join("own 2"), await engine.join("root")
        await slow_calls(module, first, range(20))
        await until(lambda: len(module.slow) == 6)
        await slow_calls(module, second, range(20))
        await until(lambda: len(module.slow) == 10)
        await root.call("echo", 1)  # others are served meanwhile
        assert len(module.slow) == 10
        for done in range(40):
            await until(partial(has_begun, module, done))
            module.slow[done].set_result(b"1")
            assert len(module.slow) - done - 1 <= 10
        for number in range(20):
            for worker in (first, second):
                await worker.expect("invocationresult", invocation_id=f"s{number}")


async def test_limits_of_a_token_that_come_while_calls_are_open_count_from_then_on(tmp_path: Path) -> None:
    module = DictModule()
    async with engine_with(tmp_path, None, module) as engine:
        own = await engine.join("own")
        await slow_calls(module, own, range(5))
        await until(lambda: len(module.slow) == 5)
        await engine.give({"root": {}, "own": {"limits": {"calls_in_flight": 2}}})
        await slow_calls(module, own, range(5, 10))
        await until(lambda: len(module.slow) == 7)
        for future in module.slow[:5]:
            future.set_result(b"1")
        for number in range(5):
            await own.expect("invocationresult", invocation_id=f"s{number}")
        assert len(module.slow) == 7
        await engine.give({"root": {}, "own": {}})
        module.slow[5].set_result(b"1")
        module.slow[6].set_result(b"1")
        await until(lambda: len(module.slow) == 10)
        for future in module.slow[7:]:
            future.set_result(b"1")


async def keys_of(worker: RawWorker) -> int:
    return len((await worker.call("state::list_keys", {"scope": "s"}))["result"]["keys"])


async def test_messages_over_the_rate_are_read_later_and_none_is_lost(tmp_path: Path) -> None:
    async with engine_with(tmp_path, {"frames_per_second": 20}) as engine:
        own, root = await engine.join("own"), await engine.join("root")
        for n in range(30):
            data = {"scope": "s", "key": str(n), "value": n}
            await own.send("invokefunction", function_id="state::set", data=data, invocation_id=f"i{n}")
        assert await keys_of(root) < 20  # nobody else waits
        for n in range(30):
            assert code(await own.expect("invocationresult", invocation_id=f"i{n}")) is None
        assert await keys_of(root) == 30


def test_a_rate_begins_anew_with_each_second() -> None:
    rate = Rate(3)
    assert [rate.count(now) for now in (10.0, 10.1, 10.25, 10.5)] == [0.0, 0.0, 0.75, 0.5]
    assert [rate.count(now) for now in (11.0, 11.0, 11.5)] == [0.0, 0.0, 0.5]
    assert Rate(None).count(10.0) == 0.0


async def test_the_rate_of_a_token_is_that_of_all_its_connections(tmp_path: Path) -> None:
    async with engine_with(tmp_path, {"frames_per_second": 20}) as engine:
        first, second = await engine.join("own"), await engine.join("own 2")
        for worker in (first, second):
            for n in range(15):
                await worker.send(
                    "invokefunction", function_id="state::set", data={"scope": "s", "key": f"{worker.id}{n}", "value": n}
                )
        state = await engine.join("root")

        assert await keys_of(state) < 20
        for worker in (first, second):
            await worker.settled()
        assert await keys_of(state) == 30


@pytest.mark.slow
async def test_the_defaults_let_ten_thousand_triggers_through(tmp_path: Path) -> None:
    async with engine_with(tmp_path) as engine:
        own = await engine.join("own")
        for number in range(10_000):
            await register_trigger(own, f"t{number}", f"s{number}")
            await own.socket.send_str(f'{{"type":"registerfunction","id":"f{number}"}}')
            if number % 1000 == 999:
                assert [frame for frame in await own.settled() if "error" in frame] == []
        assert len(list(engine.engine.triggers)) == 10_000
