"""A bridge to an engine that does not have what is asked for: that is said, and nothing changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.selection import KeySelection
from iii_state.errors import FunctionError
from iii_state.state.features import FEATURES
from iii_state.values.transactions import Step
from tests.support.engines.embedded import engine_over
from tests.support.stores import LIMIT, Store, opened

PART = KeySelection("k")
ASKED: dict[str, Callable[[Store], Any]] = {
    "many": lambda store: store.get_many("s", ["k"]),
    "transact": lambda store: store.transact("s", [Step("k", b"2")], LIMIT),
    "prefix of list": lambda store: store.texts("s", PART),
    "prefix of list_keys": lambda store: store.keys("s", PART),
    "prefix of list_entries": lambda store: store.entries("s", PART),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_what_a_remote_does_not_announce_is_not_asked_of_it(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = asked.split()[0]
    monkeypatch.setattr("iii_state.state.module.FEATURES", [known for known in FEATURES if known != feature])
    async with opened("bridge-kv", tmp_path) as store:
        await store.set("s", "k", b"1")
        with pytest.raises(FunctionError) as raised:
            await ASKED[asked](store)
        assert raised.value.code == "UNSUPPORTED"
        assert f"the feature `{feature}`; nothing was changed" in raised.value.message
        assert await store.entries("s") == [("k", b"1")]
        others = [name for name in ASKED if name.split()[0] != feature]
        for name in others:
            await ASKED[name](store)


async def test_an_engine_announces_what_the_remote_of_its_bridge_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with engine_over("bridge-kv-memory", tmp_path) as engine:

        async def announced() -> Any:
            about = {"function_id": "engine::functions::info", "payload": {"function_id": "state::set"}}
            return (await engine.trigger(about))["metadata"]["iii_state"]["features"]

        assert await announced() == FEATURES
    monkeypatch.setattr(KvAdapter, "has", lambda adapter, feature: feature not in ("many", "touch"))
    async with engine_over("bridge-kv-memory", tmp_path) as engine:
        assert await announced() == [known for known in FEATURES if known not in ("many", "touch")]
        monkeypatch.setattr(KvAdapter, "has", lambda adapter, feature: feature != "touch")  # it has been upgraded
        with pytest.raises(FunctionError, match="UNSUPPORTED"):
            await engine.trigger({"function_id": "state::get_many", "payload": {"scope": "s", "keys": ["k"]}})
        async with asyncio.timeout(10):
            while "many" not in await announced():
                await asyncio.sleep(0.01)
        await engine.trigger({"function_id": "state::get_many", "payload": {"scope": "s", "keys": ["k"]}})
