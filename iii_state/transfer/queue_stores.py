"""Opening the stores that queues are moved from and to: no engine may run on them, since events would move on meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from iii_state.adapters.kv.journal.file import FILE_NAME
from iii_state.adapters.kv.journal.stopped import stopped_file
from iii_state.errors import TransferError
from iii_state.transfer import stores
from iii_state.transfer.file import FileStore
from iii_state.transfer.moving.parted import opened
from iii_state.transfer.queues.kv import KvQueueSource, KvQueueTarget, NewKvQueueTarget
from iii_state.transfer.queues.redis_source import RedisQueueSource
from iii_state.transfer.queues.redis_target import RedisQueueTarget
from iii_state.transfer.queues.rows import QueueSource, QueueTarget
from iii_state.transfer.rows import Source
from iii_state.transfer.stores import StorePlace


def refuse_engine(place: StorePlace) -> None:
    """Raises `TransferError` where a place is an engine."""
    if place.engine is not None:
        raise TransferError(
            "--queues needs the store itself, since an engine handles events meanwhile: stop all engines of the fleet, and give "
            "--redis-url URL or --file-path DIR in place of --url. A store in memory has no queues that outlive its engine"
        )


@asynccontextmanager
async def sources(place: StorePlace, *, with_queues: bool) -> AsyncIterator[tuple[Source, QueueSource | None]]:
    """Open a store to read its values and, if wanted, its queues. Raises `StateError` in words."""
    if not with_queues:
        async with stores.source(place) as source:
            yield source, None
        return
    refuse_engine(place)
    if place.redis is not None:
        async with stores.source(place) as source, opened(place.redis) as store:
            await store.refuse_living()
            yield source, RedisQueueSource(store)
    else:
        assert place.directory is not None
        with stopped_file(place.directory, is_written=False) as file:
            yield FileStore(file), KvQueueSource(file)


@asynccontextmanager
async def queue_target(place: StorePlace, *, is_dry: bool) -> AsyncIterator[QueueTarget]:
    """Open a store to fill its queues. Raises `StateError` in words."""
    refuse_engine(place)
    if place.redis is not None:
        async with opened(place.redis, is_target=True) as store:
            await store.refuse_living()
            yield RedisQueueTarget(store)
    else:
        assert place.directory is not None
        if is_dry and not (place.directory / FILE_NAME).exists():
            yield NewKvQueueTarget(str(place.directory))
            return
        with stopped_file(place.directory, is_written=not is_dry) as file:
            target = KvQueueTarget(file)
            try:
                yield target
            finally:
                target.give_up()
