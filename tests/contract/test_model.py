"""Every adapter does what the model does, whatever is done to it and whenever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings

from iii_state import values
from tests.support import model, strategies
from tests.support.loops import LoopFactory
from tests.support.stores import ALL, LIMIT, Store, drain, opened, plan, stored
from tests.support.vectors import exact

EXAMPLES = {
    "kv-memory": 300,
    "kv-file": 100,
    "fakeredis": 25,
    "redis": 150,
    "cluster": 40,
    "cluster-valkey": 20,
    "bridge-kv": 60,
    "bridge-redis": 40,
    "bridge-bridge-kv": 30,
}


def seen(text: bytes | None) -> Any:
    return model.ABSENT if text is None else exact(values.decode(text))


def expected(value: Any) -> Any:
    return model.ABSENT if value is model.ABSENT else exact(value)


async def compare(store: Store, prefix: str, steps: list[tuple[Any, ...]]) -> None:
    oracle = model.Store()

    def told(value: Any) -> Any:
        """In events and previous values the protocol has one null for nothing and for a stored null."""
        return model.ABSENT if store.is_remote and value == exact(None) else value

    for step in [*steps, *(("delete", place) for place in itertools.product("st", "ab"))]:
        match step:
            case ("set", (scope, key), value, ttl_ms):
                old = await store.set(prefix + scope, key, stored(value), ttl_ms=ttl_ms)
                assert told(seen(old)) == told(expected(oracle.set((scope, key), value, ttl_ms)))
            case ("update", (scope, key), ops, ttl_ms):
                updated = await store.update(prefix + scope, key, plan(*ops), LIMIT, ttl_ms=ttl_ms)
                old, new = oracle.update((scope, key), ops, ttl_ms)
                assert (told(seen(updated.old)), seen(updated.new)) == (told(expected(old)), expected(new))
            case ("delete", (scope, key)):
                assert seen(await store.delete(prefix + scope, key)) == expected(oracle.delete((scope, key)))
            case ("get", (scope, key)):
                assert seen(await store.get(prefix + scope, key)) == expected(oracle.get((scope, key)))
            case ("list", scope):
                entries = {key: seen(text) for key, text in await store.entries(prefix + scope)}
                assert entries == {key: expected(value) for (of, key), (value, _) in oracle.values.items() if of == scope}
            case ("groups",):
                assert {scope for scope in await store.scopes() if scope.startswith(prefix)} == {
                    prefix + scope for scope, _ in oracle.values
                }
            case ("elapse", hours):
                store.elapse(hours * strategies.HOUR_MS)
                oracle.elapse(hours * strategies.HOUR_MS)
    came: dict[model.Place, list[tuple[str, Any, Any]]] = {}
    async for event in events(store, sum(map(len, oracle.events.values()))):
        place = (event.scope.removeprefix(prefix), event.key)
        came.setdefault(place, []).append((event.event_type.removeprefix("state:"), told(seen(event.old)), told(seen(event.new))))
    assert came == {
        place: [(kind, told(expected(old)), told(expected(new))) for kind, old, new in wanted]
        for place, wanted in oracle.events.items()
    }


async def events(store: Store, count: int) -> AsyncIterator[Any]:
    """All that are there, and so many at least."""
    async with asyncio.timeout(10):
        while (taken := await drain(store, ALL)) or count > 0:
            for delivery in taken:
                count -= 1
                yield delivery.event


def test_every_adapter_does_what_the_model_does(kind: str, new_loop: LoopFactory, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        opening = opened(kind, tmp_path)
        store = runner.run(opening.__aenter__())
        runner.run(store.subscribe(ALL))
        numbers = itertools.count()

        @settings(max_examples=EXAMPLES[kind], deadline=None)
        @given(strategies.STEPS)
        def holds(steps: list[tuple[Any, ...]]) -> None:
            runner.run(compare(store, f"{next(numbers)}:", steps))

        try:
            holds()
        finally:
            runner.run(opening.__aexit__(None, None, None))
