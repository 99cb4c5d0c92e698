"""Events of one subscription that wait in Redis, put there by an adapter that takes none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from benchmarks import frames
from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import Subscription
from iii_state.tasks.results import Result

_AT_ONCE = 256


@asynccontextmanager
async def adapter(url: str) -> AsyncIterator[RedisAdapter]:
    """An adapter of an engine that takes events only when asked to."""
    running = RedisAdapter(RedisSettings(redis_url=url))
    await running.start(lambda subscription_id: None)
    try:
        yield running
    finally:
        await running.stop()


async def given(answer: Result[Any]) -> Any:
    """What an adapter answers, at once or later."""
    return await answer if isinstance(answer, asyncio.Future) else answer


async def write(running: RedisAdapter, scope: str, keys: Iterable[str], size: int) -> None:
    """Set the keys of a scope, in this order, to values of that many bytes."""
    text = values.to_stored(frames.document(size).encode())
    calls: list[Awaitable[Any]] = []
    for key in keys:
        calls.append(given(running.values.set(scope, key, text)))
        if len(calls) == _AT_ONCE:
            await asyncio.gather(*calls)
            calls.clear()
    await asyncio.gather(*calls)


async def take_all(running: RedisAdapter, subscription: Subscription) -> int:
    """Take and acknowledge everything that waits; how many events that was."""
    count = 0
    deliveries = await given(running.queues.take(subscription.id, _AT_ONCE))
    while deliveries:
        count += len(deliveries)
        deliveries = await given(running.queues.ack(deliveries, _AT_ONCE))
    return count
