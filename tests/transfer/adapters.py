"""Adapters of stores that are moved: running, and asked for what waits in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from iii_state.adapters.base import Adapter
from iii_state.events import Delivery, Subscription
from tests.support.waiting import answer_of, until


@asynccontextmanager
async def running(adapter: Adapter) -> AsyncIterator[Adapter]:
    await adapter.start(lambda subscription_id: None)
    try:
        yield adapter
    finally:
        await adapter.stop()


async def taken(adapter: Adapter, subscription: Subscription, count: int) -> list[Delivery]:
    found: list[Delivery] = []

    async def take() -> bool:
        found.extend(await answer_of(adapter.queues.take(subscription.id, count - len(found))))
        return len(found) >= count

    await until(take)
    return found
