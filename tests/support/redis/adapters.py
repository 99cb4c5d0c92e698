"""Redis adapters under test, without an engine, and calls on them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis import RedisAdapter
from iii_state.config import RedisSettings
from iii_state.events import Delivery, Subscription
from iii_state.values.ops import compile_text
from tests.support.stores import ALL
from tests.support.waiting import answer_of, until

Open = Callable[..., Awaitable[RedisAdapter]]
INCREMENT = compile_text(b'[{"type":"increment","path":"n","by":1}]')
SMALLEST_RULES = (
    "~state:* ~iii-state:* &iii-state:* &__keyspace@*__:iii-state:* -@all +@hash +@set +@sortedset +@list +@stream +@string "
    "+@connection +@pubsub +del +unlink +exists +scan +pexpire +pttl +type +rename +time +evalsha +script|load +script|exists "
    "-config"
)
"""What a user of Redis has to be allowed, and no more."""


@asynccontextmanager
async def adapter_on(url: str, **settings: Any) -> AsyncIterator[RedisAdapter]:
    adapter = RedisAdapter(RedisSettings(redis_url=url, **settings))
    async with asyncio.timeout(30):
        await adapter.start(lambda subscription_id: None)
    try:
        yield adapter
    finally:
        async with asyncio.timeout(30):
            await adapter.stop()


async def increments(adapter: RedisAdapter, callers: int, each: int) -> list[Updated]:
    """Increments from many callers, all of which have to succeed."""

    async def caller() -> list[Updated]:
        return [await answer_of(adapter.values.update("s", "k", INCREMENT, values.MAX_VALUE_BYTES)) for _ in range(each)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(caller()) for _ in range(callers)]
    return [updated for task in tasks for updated in task.result()]


async def until_answers(adapter: RedisAdapter) -> None:
    """Wait until Redis answers again."""

    async def answers() -> bool:
        return await adapter.health() is None

    await until(answers)


async def drain(adapter: RedisAdapter, subscription: Subscription = ALL) -> list[Delivery]:
    everything: list[Delivery] = []
    while taken := await answer_of(adapter.queues.take(subscription.id, 100)):
        everything += taken
        await answer_of(adapter.queues.ack(taken))
    return everything
