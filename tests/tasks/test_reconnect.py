"""A lost connection is made again, after pauses that grow until one has worked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from iii_state.tasks.reconnect import Backoff, Reconnecting


class Ended(Exception):
    """What ends the loops of these tests."""


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, none of which takes time."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("iii_state.tasks.reconnect.asyncio.sleep", sleep)
    monkeypatch.setattr("iii_state.tasks.reconnect.random.uniform", lambda low, high: high)
    return pauses


def attempts(loop: list[Reconnecting], steps: Iterator[str]) -> Callable[[], object]:
    """Attempts that go as `steps` says: they fail, or work and are lost, or end the loop."""

    async def attempt() -> None:
        match next(steps):
            case "works":
                loop[0].worked()
            case "lost":
                pass
            case words:
                raise OSError(words)

    return attempt


async def follow(backoff: Backoff, *steps: str) -> list[tuple[str, bool]]:
    """Run a loop through these steps; what `failed` was told."""
    told: list[tuple[str, bool]] = []

    def failed(error: Exception, is_news: bool) -> None:
        if str(error) == "end":
            raise Ended
        told.append((str(error), is_news))

    loop: list[Reconnecting] = []
    loop.append(Reconnecting(attempts(loop, iter((*steps, "end"))), backoff, failed=failed))  # type: ignore[arg-type]
    with pytest.raises(Ended):
        await loop[0].run()
    return told


async def test_pauses_double_up_to_the_most_and_begin_anew_when_a_connection_has_worked(slept: list[float]) -> None:
    await follow(Backoff(1, 6), "refused", "refused", "lost", "refused", "works", "refused")
    assert slept == [1, 2, 4, 6, 1, 2]


async def test_the_first_attempt_after_a_success_can_be_made_at_once(slept: list[float]) -> None:
    await follow(Backoff(1, 6, at_once=True), "works", "refused", "refused", "works", "refused")
    assert slept == [0, 1, 2, 0, 1]


async def test_only_what_is_new_counts_as_news(slept: list[float]) -> None:
    told = await follow(Backoff(1, 6), "refused", "refused", "unknown host", "works", "unknown host")
    assert told == [("refused", True), ("refused", False), ("unknown host", True), ("unknown host", True)]


async def test_pauses_differ_by_up_to_half() -> None:
    backoff = Backoff(1, 1)
    pauses = [backoff.next_seconds() for _ in range(200)]
    assert 0.5 <= min(pauses) < max(pauses) <= 1


async def test_a_reason_to_try_now_ends_a_pause_and_the_next_is_the_shortest_again(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[float] = []

    async def sleep_for_ever(seconds: float) -> None:
        planned.append(seconds)
        await asyncio.Event().wait()

    async def attempt() -> None:
        raise OSError("refused")

    loop = Reconnecting(attempt, Backoff(1, 8), failed=lambda error, is_news: None)
    monkeypatch.setattr("iii_state.tasks.reconnect.random.uniform", lambda low, high: high)
    with monkeypatch.context() as patched:
        patched.setattr("iii_state.tasks.reconnect.asyncio.sleep", sleep_for_ever)
        task = asyncio.ensure_future(loop.run())
        for count in (1, 2, 3):
            async with asyncio.timeout(20):
                while len(planned) < count:
                    await asyncio.wait((task,), timeout=0.001)
            loop.hurry()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert planned[:3] == [1, 1, 1]


async def test_it_ends_when_it_is_cancelled() -> None:
    async def attempt() -> None:
        await asyncio.sleep(3600)

    task = asyncio.ensure_future(Reconnecting(attempt, Backoff(1, 1), failed=lambda error, is_news: None).run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
