"""The result of a call: there at once, or a Future of it, so that what needs no waiting costs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

S = TypeVar("S")

Answer: TypeAlias = T | asyncio.Future[T]
"""A value, or a Future of it. Errors are raised at once, or set in the Future."""

Awaited: TypeAlias = T | asyncio.Future[T] | Coroutine[Any, Any, T]
"""The same, or a coroutine of it: where a task a call costs nothing that counts."""


async def answered(answer: Awaited[T]) -> T:
    """The value of an answer, for who can wait for it. Where every call counts, `then` or a look for a Future costs less."""
    return await answer if isinstance(answer, asyncio.Future | Coroutine) else answer


def then(
    answer: Answer[T], step: Callable[[T], S], failed: Callable[[BaseException], BaseException] = lambda error: error
) -> Answer[S]:
    """Apply `step` to an answer: at once where it is there, in a callback where it is not. `failed` translates a Future's error."""
    if not isinstance(answer, asyncio.Future):
        return step(answer)
    following: asyncio.Future[S] = answer.get_loop().create_future()

    def settle(settled: asyncio.Future[T]) -> None:
        if following.cancelled():
            settled.cancelled() or settled.exception()
        elif settled.cancelled():
            following.cancel()
        elif (error := settled.exception()) is not None:
            following.set_exception(failed(error))
        else:
            try:
                following.set_result(step(settled.result()))
            except Exception as failure:
                following.set_exception(failure)

    answer.add_done_callback(settle)
    return following
