"""The result of a call: there at once, or a Future of it, so that what needs no waiting costs no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
S = TypeVar("S")

Result: TypeAlias = T | asyncio.Future[T]
"""A value, or a Future of it. Errors are raised at once, or set in the Future."""

Awaited: TypeAlias = T | asyncio.Future[T] | Coroutine[Any, Any, T]
"""The same, or a coroutine of it: where a task a call costs nothing that counts."""


async def result_of(result: Awaited[T]) -> T:
    """The value of a result, now or when it is there. Where every call counts, `then` or a look for a Future costs less."""
    return await result if isinstance(result, asyncio.Future | Coroutine) else result


def then(
    result: Result[T], step: Callable[[T], S], failed: Callable[[BaseException], BaseException] = lambda error: error
) -> Result[S]:
    """Apply `step` to a result: at once where it is there, in a callback where it is not. `failed` translates a Future's error."""
    if not isinstance(result, asyncio.Future):
        return step(result)
    following: asyncio.Future[S] = result.get_loop().create_future()

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

    result.add_done_callback(settle)
    return following
