"""The partitions of a store, as one engine has them: which of them a scope belongs to, and what all of them are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from iii_state.adapters.redis.cluster.tags import partition_of
from iii_state.errors import StoreError
from iii_state.tasks.results import result_of

T = TypeVar("T")

Asked: TypeAlias = asyncio.Future[T] | Coroutine[Any, Any, T]

AT_ONCE = 16
"""So many partitions are asked at once for what takes many calls."""


class Placed(Protocol):
    """A partition says where it lies, for people."""

    @property
    def place(self) -> str: ...


P = TypeVar("P", bound=Placed)


class Partitions(Generic[P]):
    """The partitions in their order. There are none before the store has been opened."""

    def __init__(self, partitions: Sequence[P] = ()) -> None:
        self.all: list[P] = list(partitions)

    def __len__(self) -> int:
        return len(self.all)

    def of(self, scope: str) -> P:
        """The partition of a scope."""
        found = self.all
        if not found:
            raise StoreError("the redis adapter has not been started")
        return found[partition_of(scope.encode(), len(found))]

    @property
    def first(self) -> P:
        """The one in which lies what belongs to no scope."""
        if not self.all:
            raise StoreError("the redis adapter has not been started")
        return self.all[0]

    async def gather(self, ask: Callable[[P], Asked[T]], *, at_once: int | None = None) -> list[T]:
        """Ask all of them, and give what they answer, in their order. Raises `StoreError` that says which did not answer, and
        where these are."""
        room = asyncio.Semaphore(at_once or max(1, len(self.all)))

        async def answer(partition: P) -> T:
            async with room:
                return await result_of(ask(partition))

        outcomes = await asyncio.gather(*map(answer, self.all), return_exceptions=True)
        answers: list[T] = []
        failures: dict[int, BaseException] = {}
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, BaseException):
                failures[number] = outcome
            else:
                answers.append(outcome)
        if failures:
            raise self.failed(failures)
        return answers

    def failed(self, failures: dict[int, BaseException]) -> BaseException:
        """The error that says what several have failed with; what is no trouble of the store's is raised as it is."""
        for failure in failures.values():
            if not isinstance(failure, StoreError):
                return failure
        first = next(iter(failures.values()))
        if len(failures) == len(self.all):
            return first
        places = dict.fromkeys(self.all[number].place for number in failures)
        return StoreError(f"{ranges(sorted(failures))} of {len(self.all)} (at {', '.join(places)}): {first}")


def ranges(numbers: Sequence[int]) -> str:
    """Partitions in words: `partition 3`, `partitions 0-20, 63`."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], number)
        else:
            parts.append((number, number))
    listed = ", ".join(str(begin) if begin == end else f"{begin}-{end}" for begin, end in parts)
    return f"{'partition' if len(numbers) == 1 else 'partitions'} {listed}"
