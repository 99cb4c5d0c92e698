"""A bridge to an engine that does not have what is asked for: that is said, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iii_state.adapters.selection import KeySelection
from iii_state.errors import FunctionError
from iii_state.state.features import FEATURES
from iii_state.values.transactions import Step
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
