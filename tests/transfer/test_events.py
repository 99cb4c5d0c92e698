"""An import fires no events, unless it is told to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis import RedisAdapter
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.errors import ConfigError, TransferError
from iii_state.events import Subscription
from iii_state.history import LogRule, LogRules
from iii_state.tasks.results import result_of
from iii_state.transfer import stores
from iii_state.transfer.rows import ValueRow
from iii_state.transfer.stores import StorePlace
from tests.support.stores import engine_over, stored
from tests.transfer.places import held_in, place_of

WANTED = Subscription("orders::changed", retention_ms="forever")
ROWS = [ValueRow("orders", key, stored(key)) for key in "abc"]


def adapter_of(place: StorePlace) -> Adapter:
    """An engine's side of a store."""
    return KvAdapter(place.directory) if place.redis is None else RedisAdapter(place.redis)


async def put(place: StorePlace, *, events: bool) -> None:
    async with stores.target(place, "error", events=events, is_dry=False) as target:
        await target.put(ROWS, "error")


@pytest.mark.parametrize("events", [False, True], ids=["without", "with"])
@pytest.mark.parametrize("kind", ["file", "redis"])
async def test_events_wait_only_where_they_were_asked_for(kind: str, events: bool, tmp_path: Path) -> None:
    async with place_of(kind, tmp_path, 5) as place:
        before = adapter_of(place)
        await before.start(lambda subscription_id: None)
        await result_of(before.queues.subscribe(WANTED))
        await before.stop()
        await put(place, events=events)
        after = adapter_of(place)
        await after.start(lambda subscription_id: None)
        await result_of(after.queues.subscribe(WANTED))
        taken = await result_of(after.queues.take(WANTED.id, 10))
        assert sorted((each.event.event_type, each.event.key) for each in taken) == [
            ("state:created", key) for key in "abc" if events
        ]
        await result_of(after.queues.ack(taken))
        await after.stop()
        assert sorted(await held_in(place)) == ROWS


@pytest.mark.parametrize(("kind", "is_running"), [("file", False), ("redis", False), ("redis", True)])
async def test_an_import_goes_by_the_settings_of_the_fleet(kind: str, is_running: bool, tmp_path: Path) -> None:
    """It is taken in while other engines run, is in their change logs, and ends none of them when none runs."""
    rules = LogRules([LogRule(scope="orders", max_length=5), LogRule(scope_prefix="log")])
    async with place_of(kind, tmp_path, 6) as place:

        async def engine() -> Adapter:
            if place.redis is None:
                adapter: Adapter = KvAdapter(place.directory, history=rules)
            else:
                settings = msgspec.structs.replace(place.redis, foreign_writes=True)
                adapter = RedisAdapter(settings, history=rules)
            await adapter.start(lambda subscription_id: None)
            return adapter

        before = await engine()
        for scope in ("orders", "logged"):
            await result_of(before.values.set(scope, "first", b"1"))
        begun = await result_of(before.history.page("orders", None, None, 0))
        other = await result_of(before.history.page("logged", None, None, 0))
        if not is_running:
            await before.stop()
        await put(place, events=True)
        after = before if is_running else await engine()
        try:
            found = await result_of(after.history.page("orders", None, begun.next_after, 10))
            assert [change.revision for change in found.changes] == [2, 3, 4]
            await result_of(after.values.set("logged", "second", b"1"))
            found = await result_of(after.history.page("logged", None, other.next_after, 10))
            assert [change.revision for change in found.changes] == [2]
        finally:
            await after.stop()


async def test_an_engine_that_would_fire_events_is_refused_without_them(tmp_path: Path) -> None:
    async with engine_over("kv", tmp_path, None) as (url, _), Client(url) as worker:
        place = StorePlace(engine=EngineAddress(url))
        worker.serving.register_function("orders::changed", lambda event, caller: None)
        await worker.triggers.register("state", "orders::changed", {"scope": "orders"})
        with pytest.raises(TransferError, match=r"fires events \(orders::changed\): give --events if they are wanted"):
            async with stores.target(place, "overwrite", events=False, is_dry=False):
                pass
        async with stores.target(place, "overwrite", events=True, is_dry=False) as target:
            await target.put(ROWS, "overwrite")
        assert sorted(await held_in(place)) == ROWS


async def test_beside_engines_that_have_agreed_on_something_their_configuration_is_needed(tmp_path: Path) -> None:
    async with place_of("redis", tmp_path, 5) as place:
        assert place.redis is not None
        agreed = StorePlace(redis=msgspec.structs.replace(place.redis, foreign_writes=True))
        engine = adapter_of(agreed)
        await engine.start(lambda subscription_id: None)
        with pytest.raises(ConfigError, match="To import beside them, name their configuration: --config FILE"):
            await put(place, events=False)
        await put(agreed, events=False)
        assert sorted(await held_in(place)) == ROWS
        await engine.stop()
