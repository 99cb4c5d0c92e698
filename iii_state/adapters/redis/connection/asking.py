"""Asks several servers the same at once, and waits for as many answers as are likely to tell the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

from iii_state.tasks.background import stop_tasks

T = TypeVar("T")

ASK_SECONDS = 1.0
"""So long a server may take to answer."""

REST_SECONDS = 0.1
"""So long the others may take once more than half of them have answered: one that knows more may be among them."""


async def answers_of(asked: Iterable[Awaitable[T]]) -> tuple[list[T], list[BaseException]]:
    """What has been answered, and why others have not; those that take too long are left out."""
    tasks = {asyncio.ensure_future(one) for one in asked}
    left, patience = tasks, ASK_SECONDS * 2
    try:
        while left and patience:
            done, left = await asyncio.wait(left, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            answered = sum(task.done() and task.exception() is None for task in tasks)
            patience = REST_SECONDS if 2 * answered > len(tasks) else patience
    finally:
        await stop_tasks(left)
        errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    return [task.result() for task in tasks if not task.cancelled() and task.exception() is None], errors
