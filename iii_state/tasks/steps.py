"""What is done to one thing after another: each step begins when the one before it has been answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from iii_state.errors import Code, FunctionError
from iii_state.tasks.failures import contained
from iii_state.tasks.results import Result


class Steps:
    """The steps under way, by the id of what they are done to."""

    def __init__(self) -> None:
        self._last: dict[str, asyncio.Future[None]] = {}

    def after(self, thing: str, step: Callable[[], Result[None]]) -> Result[None]:
        """Take a step now, or, where an earlier one for this thing is not over, after it, however that one ends."""
        earlier = self._last.get(thing)
        if earlier is None:
            answer = _taken(step)
            if not isinstance(answer, asyncio.Future):
                return None
            following = answer
        else:
            following = earlier.get_loop().create_future()
            _chain(earlier, step, following)
        self._last[thing] = following

        def over(done: asyncio.Future[None]) -> None:
            if self._last.get(thing) is done:
                del self._last[thing]

        following.add_done_callback(over)
        return following

    async def settled(self) -> None:
        """Wait until every step that has begun is over."""
        while self._last:
            await asyncio.wait(list(self._last.values()))


def _taken(step: Callable[[], Result[None]]) -> Result[None]:
    """Take a step; what it raises that is no `Exception`, and would end more than the step, is raised as a `FunctionError`."""
    try:
        return step()
    except Exception:
        raise
    except BaseException as error:
        failure = contained(error)
        raise FunctionError(Code.TRIGGER_REGISTRATION_FAILED, failure.message, failure.stacktrace) from error


def _chain(earlier: asyncio.Future[None], step: Callable[[], Result[None]], following: asyncio.Future[None]) -> None:
    def settle(done: asyncio.Future[None]) -> None:
        if following.done():
            return
        if done.cancelled():
            following.cancel()
        elif (error := done.exception()) is not None:
            following.set_exception(error)
        else:
            following.set_result(None)

    def begin(_: asyncio.Future[None]) -> None:
        try:
            answer = _taken(step)
        except Exception as error:
            following.set_exception(error)
            return
        if isinstance(answer, asyncio.Future):
            answer.add_done_callback(settle)
        else:
            following.set_result(None)

    earlier.add_done_callback(begin)
