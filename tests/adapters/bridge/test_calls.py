"""Calls over a bridge: what comes through, what is refused, and what is said when the remote is away."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from iii_state import FunctionError
from iii_state.client.client import Client
from tests.support.bridge.engines import SECONDS, State, bridge_to, running, stock
from tests.support.engines.processes import EngineProcess, free_port
from tests.support.waiting import until


async def test_what_a_caller_sees_is_what_the_remote_says() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        assert await bridge("set", scope="s", key="k", value={"a": 1.0, "b": []}) == {
            "old_value": None,
            "new_value": {"a": 1.0, "b": []},
        }
        ops = [{"type": "increment", "path": "c", "by": 2**63}, {"type": "append", "path": "a", "value": 1}]
        updated = await bridge("update", scope="s", key="k", ops=ops)
        assert updated["new_value"] == {"a": 1.0, "b": [], "c": 2**63}
        assert [(error["op_index"], error["code"]) for error in updated["errors"]] == [(1, "append.type_mismatch")]
        assert await remote("get", scope="s", key="k") == updated["new_value"]
        assert await bridge("list", scope="s") == [updated["new_value"]]
        assert await bridge("list_keys", scope="s") == {"keys": ["k"]}
        assert (await bridge("list_entries", scope="s"))["entries"] == [["k", updated["new_value"]]]
        assert await bridge("list_groups") == {"groups": ["s"]}
        assert await bridge("delete", scope="s", key="k") == updated["new_value"]
        assert await remote("get", scope="s", key="k") is None
        assert await bridge.module.health() is None


async def test_a_stored_null_is_told_from_no_value() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge, Client(bridge.url) as client:
        await remote("set", scope="s", key="null", value=None)
        assert await client.call("state::get", b'{"scope":"s","key":"null"}') == b"null"
        assert await client.call("state::get", b'{"scope":"s","key":"none"}') is None
        assert await client.call("state::delete", b'{"scope":"s","key":"null"}') == b"null"
        assert await client.call("state::delete", b'{"scope":"s","key":"null"}') is None


async def test_the_remotes_errors_keep_their_codes() -> None:
    async with running({"max_value_bytes": 5}) as remote, running(bridge_to(remote.url)) as bridge:
        with pytest.raises(FunctionError) as refused:
            await bridge("set", scope="s", key="k", value="xxxx")
        message = "value of 6 bytes exceeds the configured max_value_bytes limit of 5"
        assert (refused.value.code, refused.value.message) == ("VALUE_TOO_LARGE", message)
        with pytest.raises(FunctionError) as refused:
            await bridge("update", scope="s", key="k", ops=[{"type": "set", "value": "xxxx"}])
        assert (refused.value.code, refused.value.message) == ("VALUE_TOO_LARGE", message)
        assert await remote("get", scope="s", key="k") is None


async def test_the_bridges_own_limit_holds_for_updates_too() -> None:
    async with running() as remote, running({**bridge_to(remote.url), "max_value_bytes": 5}) as bridge:
        async with running(bridge_to(bridge.url)) as second:
            for state in (bridge, second):
                for call in ({"value": "xxxx"}, {"ops": [{"type": "set", "value": "xxxx"}]}):
                    with pytest.raises(FunctionError, match=r"VALUE_TOO_LARGE.*limit of 5"):
                        await state("set" if "value" in call else "update", scope="s", key="k", **call)
        assert await remote("get", scope="s", key="k") is None


async def test_bridges_have_names_of_their_own() -> None:
    async with running() as remote, running(bridge_to(remote.url)), running(bridge_to(remote.url)):
        names = {worker["name"] for worker in (await remote("engine::workers::list"))["workers"]}
        assert len(names) == 2
        assert all(name.startswith("iii-state-bridge") for name in names)


async def test_what_nests_deeper_than_the_remote_can_read_is_refused_at_once() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        deep: Any = 1
        for _ in range(500):
            deep = [deep]
        await bridge("set", scope="s", key="k", value=deep)
        assert await remote("get", scope="s", key="k") == deep
        bridge.module.adapter._remote.client.connection.max_frame_depth = 127  # type: ignore[attr-defined]
        with pytest.raises(FunctionError, match=r"nests deeper than the engine at .* can read"):
            await bridge("set", scope="s", key="k", value=deep)


async def test_a_large_scope_is_read_in_pages() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        large = "x" * 9_000_000
        await remote("set", scope="s", key="large", value=large)
        for number in range(2500):
            await remote("set", scope="s", key=str(number), value=number)
        entries = dict((await bridge.module.adapter.values.entries("s")).rows)  # type: ignore[misc]
        assert len(entries) == 2501
        assert entries["17"] == b"17"
        assert entries["large"] == b'"%b"' % large.encode()


async def test_a_remote_without_keys_lists_values_and_says_that_it_has_no_keys() -> None:
    async with stock() as (worker, url), running(bridge_to(url)) as bridge:
        await bridge("set", scope="s", key="k", value={"b": 1, "a": 2})
        assert await bridge("get", scope="s", key="k") == {"b": 1, "a": 2}
        assert await bridge("list", scope="s") == [{"b": 1, "a": 2}]
        assert await bridge("list_groups") == {"groups": ["s"]}
        for function in ("list_keys", "list_entries"):
            with pytest.raises(FunctionError, match=rf"has no state::{function} .*since 0\.24"):
                await bridge(function, scope="s")
        updated = await bridge("update", scope="s", key="n", ops=[{"type": "increment", "by": 1}])
        assert updated["errors"] == [{"op_index": 0, "code": "increment.odd", "message": "odd", "doc_url": "https://iii.dev/odd"}]
        assert await bridge.module.health() is None
        assert worker.calls == 5


async def test_ten_thousand_calls_at_once_are_bounded_in_flight() -> None:
    async with stock() as (worker, url), running(bridge_to(url, max_in_flight=50)) as bridge:
        running_now, most = 0, 0

        async def slowly(data: Any) -> bytes:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            await asyncio.sleep(0)
            running_now -= 1
            return b"1"

        worker.client.serving.register_function("state::get", lambda data, caller: asyncio.ensure_future(slowly(data)))
        answers = await asyncio.gather(*(bridge("get", scope="s", key=str(number)) for number in range(10_000)))
        assert answers == [1] * 10_000
        assert 2 <= most <= 50


async def test_calls_while_the_remote_is_away_fail_within_their_time_and_health_says_why() -> None:
    port = free_port()
    async with running(bridge_to(f"ws://127.0.0.1:{port}", call_timeout_ms=300)) as bridge:
        with pytest.raises(FunctionError) as failed:
            await bridge("set", scope="s", key="k", value=1)
        assert failed.value.code == "SET_ERROR"
        assert "no iii engine answers at" in failed.value.message
        assert "given up after 300 ms: nothing was changed" in failed.value.message
        assert "cut off: no iii engine answers at" in ((await bridge.module.health()) or "")
        async with running(port=port) as remote:
            await until(lambda: _is_well(bridge))
            assert await bridge.increment() == 1
            assert await remote("get", scope="s", key="n") == 1
        assert "cut off" in ((await bridge.module.health()) or "")


async def _is_well(state: State) -> bool:
    return await state.module.health() is None


async def test_calls_wait_for_a_remote_that_is_killed_and_comes_back(tmp_path: Any) -> None:
    port = free_port()
    arguments = ["--file-path", str(tmp_path / "data")]
    remote = await asyncio.to_thread(EngineProcess, arguments, port=port)
    try:
        async with running(bridge_to(remote.url, call_timeout_ms=20_000)) as bridge:
            made = [await bridge.increment() for _ in range(10)]
            calls = [asyncio.ensure_future(bridge.increment()) for _ in range(200)]
            await until(lambda: any(call.done() for call in calls))
            remote.kill()
            calls += [asyncio.ensure_future(bridge.increment()) for _ in range(10)]
            remote = await asyncio.to_thread(EngineProcess, arguments, port=port)
            made += await asyncio.gather(*calls)
            assert sorted(made) == list(range(1, 221))
    finally:
        remote.kill()


STOCK_URL = os.environ.get("III_STOCK_URL")


@pytest.mark.skipif(STOCK_URL is None, reason="III_STOCK_URL names a stock iii engine with state, whose data does not matter")
async def test_a_stock_engine() -> None:
    assert STOCK_URL is not None
    async with running(bridge_to(STOCK_URL)) as bridge:
        await bridge.watch(scope="bridge-test")
        await bridge("delete", scope="bridge-test", key="k")
        await bridge("set", scope="bridge-test", key="k", value={"a": [1.0, 2]})
        assert json.dumps(await bridge("get", scope="bridge-test", key="k")) == '{"a": [1.0, 2]}'
        assert (await bridge("update", scope="bridge-test", key="k", ops=[{"type": "increment", "path": "n", "by": 1}]))[
            "new_value"
        ]["n"] == 1
        assert await bridge("list", scope="bridge-test") == [{"a": [1.0, 2], "n": 1}]
        assert "bridge-test" in (await bridge("list_groups"))["groups"]
        await until(lambda: len(bridge.seen) >= 3)
        async with asyncio.timeout(SECONDS):
            await bridge("delete", scope="bridge-test", key="k")
