"""Background tasks end with their owner, and one that fails is heard of."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from iii_state.tasks import background
from iii_state.tasks.background import Background, first_of


async def fail() -> None:
    raise RuntimeError("broken")


async def sleep_for_ever() -> None:
    await asyncio.sleep(3600)


async def test_a_task_that_fails_is_logged_with_its_name_and_handed_to_its_owner(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Background()
    seen: list[BaseException] = []
    task = tasks.start(fail(), "a task of a test", died=seen.append)
    await asyncio.wait((task,))
    await asyncio.sleep(0)
    assert [str(error) for error in seen] == ["broken"]
    assert [record.getMessage() for record in caplog.records] == ["the task a task of a test has failed"]
    assert caplog.records[0].exc_info is not None
    assert len(tasks) == 0


async def test_stop_cancels_and_waits_and_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Background()
    seen: list[BaseException] = []
    running = [tasks.start(sleep_for_ever(), "a task of a test", died=seen.append), tasks.call(sleep_for_ever())]
    await asyncio.sleep(0)
    await tasks.stop()
    assert all(task.cancelled() for task in running)
    assert len(tasks) == 0
    assert seen == []
    assert caplog.records == []


async def test_what_a_task_raises_while_it_is_stopped_does_not_end_the_stop() -> None:
    async def raise_in_the_end() -> None:
        try:
            await sleep_for_ever()
        finally:
            raise RuntimeError("broken")

    tasks = Background()
    tasks.call(raise_in_the_end())
    other = tasks.call(sleep_for_ever())
    await asyncio.sleep(0)
    await tasks.stop()
    assert other.cancelled()


async def test_a_task_that_does_not_end_is_not_waited_for_without_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "STOP_SECONDS", 0.05)
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    tasks = Background()
    task = tasks.start(go_on(), "a stubborn task")
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        await tasks.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "the task a stubborn task has not ended 0.05 s after it was cancelled"
    ]
    over.set()
    await task


async def test_stop_from_within_a_task_spares_that_task() -> None:
    tasks = Background()
    other = tasks.call(sleep_for_ever())
    await asyncio.sleep(0)
    await tasks.call(tasks.stop())
    assert other.cancelled()


async def test_a_caller_gets_what_its_task_returns_or_raises() -> None:
    async def one() -> int:
        return 1

    tasks = Background()
    assert await tasks.call(one()) == 1
    with pytest.raises(RuntimeError, match="broken"):
        await tasks.call(fail())


async def test_the_first_to_end_ends_the_others_and_raises_its_own_error() -> None:
    ended = []

    async def be_told() -> None:
        try:
            await sleep_for_ever()
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="broken"):
        await first_of(be_told(), fail())
    assert ended == [True]
