"""Triggers that ask for less, over a bridge: the remote has to know what they ask for."""

from __future__ import annotations

from typing import Any

import pytest

from iii_state import FunctionError
from iii_state.adapters.bridge.remote.remote import Remote
from iii_state.config import BridgeSettings
from iii_state.state.watch import WATCH_BOUNDS
from tests.support.bridge.engines import bridge_to, running, stock
from tests.support.waiting import until


async def test_a_remote_that_takes_no_notice_of_it_is_not_asked() -> None:
    async with stock() as (_, url), running(bridge_to(url)) as bridge:
        for config in (
            {"scope_prefix": "s"},
            {"changed": ["a"]},
            {"coalesce": True},
            {"payload": "keys"},
            {"when": [{"equals": 1}]},
        ):
            with pytest.raises(FunctionError, match=r"has not the feature triggers\.v2") as raised:
                await bridge.watch(**config)
            assert raised.value.code == "trigger_registration_failed"
        await bridge.watch("looks", scope="s", **WATCH_BOUNDS)  # which can be done here
        await bridge("set", scope="s", key="k", value=1)
        await until(lambda: len(bridge.seen) == 1)


async def test_a_remote_that_knows_it_sends_only_what_is_wanted() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        config: dict[str, Any] = {"scope_prefix": "us", "event_types": ["updated"], "changed": ["email"], "payload": "new"}
        await bridge.watch(**config)
        await bridge("set", scope="users", key="k", value={"email": 1})
        await remote("set", scope="users", key="k", value={"email": 1, "n": 1})
        await remote("set", scope="other", key="k", value={"email": 1})
        await remote("set", scope="users", key="k", value={"email": 2})
        await until(lambda: len(bridge.seen) == 1)
        assert bridge.seen == [
            {"type": "state", "event_type": "state:updated", "scope": "users", "key": "k", "new_value": {"email": 2}}
        ]
        [metadata] = bridge.metadata
        assert metadata["iii_state"]["attempt"] == 1


async def test_batches_are_made_of_what_comes() -> None:
    async with running() as remote, running(bridge_to(remote.url)) as bridge:
        await bridge.watch(scope="s", batch={"max": 3, "wait_ms": 60_000})
        for number in range(6):
            await remote("set", scope="s", key=str(number), value=number)
        await until(lambda: len(bridge.seen) == 2)
        rows = [row for batch in bridge.seen for row in batch["events"]]
        assert sorted(row["event"]["new_value"] for row in rows) == list(range(6))


async def test_a_bridge_knows_what_its_remote_announces() -> None:
    async with running() as remote:
        found = Remote(BridgeSettings(bridge_url=remote.url))
        await found.start()
        assert "triggers.v2" in found.link.features
        await found.stop()
