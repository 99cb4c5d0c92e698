"""Opening the stores that values are moved from and to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.kv.journal.file import FILE_NAME
from iii_state.adapters.kv.journal.stopped import stopped_file
from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.opening import open_redis, reading
from iii_state.client.address import EngineAddress
from iii_state.client.client import Client
from iii_state.config import RedisSettings
from iii_state.errors import TransferError
from iii_state.history import NO_LOGS
from iii_state.transfer.adapter import AdapterTarget
from iii_state.transfer.engine import CALL_SECONDS, EngineStore
from iii_state.transfer.file import FileStore, NewStore
from iii_state.transfer.redis import RedisSource
from iii_state.transfer.rows import OnConflict, Source, Target


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where a store is: an engine, or a Redis, or the directory of a kv store that no engine has open."""

    engine: EngineAddress | None = None
    redis: RedisSettings | None = None
    directory: Path | None = None


@asynccontextmanager
async def source(place: StorePlace) -> AsyncIterator[Source]:
    """Open a store to read it. Raises `StateError` in words."""
    if place.redis is not None:
        async with reading(place.redis) as reader:
            yield RedisSource(reader)
    elif place.directory is not None:
        with stopped_file(place.directory, is_written=False) as file:
            yield FileStore(file)
    else:
        assert place.engine is not None
        async with Client(place.engine, call_seconds=CALL_SECONDS) as client:
            store = EngineStore(client)
            await store.look_around()
            yield store


@asynccontextmanager
async def target(place: StorePlace, on_conflict: OnConflict, *, events: bool, is_dry: bool) -> AsyncIterator[Target]:
    """Open a store to put values into it, with or without events. Raises `StateError` in words."""
    if place.engine is not None:
        async with Client(place.engine, call_seconds=CALL_SECONDS) as client:
            store = EngineStore(client)
            await store.look_around()
            if not is_dry:
                store.check(on_conflict)
                if not events:
                    await _refuse_events(store)
            yield store
    elif place.directory is not None and is_dry and not (place.directory / FILE_NAME).exists():
        yield NewStore(str(place.directory))
    elif place.directory is not None and not events:
        with stopped_file(place.directory, is_written=not is_dry) as file:
            yield FileStore(file)
    else:
        adapter = await _joining(place.redis) if place.redis is not None else _opening(place.directory)
        await adapter.start(lambda subscription_id: None)
        try:
            adapter.queues.enable_events(events)
            yield AdapterTarget(adapter, _name_of(place))
        finally:
            await adapter.stop()


def _name_of(place: StorePlace) -> str:
    if place.redis is not None:
        return f"Redis at {Address.parse(place.redis.redis_url, place.redis.tls)}"
    return str(place.directory)


async def _joining(settings: RedisSettings) -> Adapter:
    """An engine more for a Redis, which goes by what the others have agreed on, or had: it ends no change log."""
    async with reading(settings) as reader:
        settings = msgspec.structs.replace(settings, foreign_writes=reader.has_foreign_writes)
    return await open_redis(settings, history=None)


def _opening(directory: Path | None) -> Adapter:
    """The engine of a kv store. The scopes of its file that have a change log keep it, and all that is in it."""
    logs = NO_LOGS
    if directory is not None and (directory / FILE_NAME).exists():
        with stopped_file(directory, is_written=False) as file:
            logs = file.logs()
    return KvAdapter(directory, history=logs)


async def _refuse_events(store: EngineStore) -> None:
    """An engine fires events for what is set through it: refuse where somebody gets them."""
    triggers = await store.triggers()
    if triggers == []:
        return
    who = "perhaps" if triggers is None else ", ".join(sorted(set(triggers))[:5])
    raise TransferError(
        f"what is set through the engine at {store.name} fires events ({who}): give --events if they are wanted, or import into "
        "its store with no events: --redis-url URL, or, when it is stopped, --file-path DIR"
    )
