"""A dead letter that is retried is handled, whatever became of it in a call whose connection broke."""

from __future__ import annotations

from typing import Any

import pytest

from iii_state import FunctionError
from tests.support.bridge.engines import bridge_to, running
from tests.support.bridge.processes import REMOTES, Worker, bridged, engine, remote
from tests.support.redis.proxy import proxy_to
from tests.support.waiting import until


@pytest.mark.parametrize("kind", REMOTES)
@pytest.mark.parametrize("handled", [True, False], ids=["handled", "failed"])
async def test_a_dead_letter_that_is_retried_is_handled_once_more(kind: str, handled: bool) -> None:
    """A call is cut off; another bridge fails on the event; meanwhile the handler of the first call comes to its end."""
    async with (
        remote(kind) as store,
        proxy_to(store.port) as proxy,
        engine(["--bridge-url", f"ws://127.0.0.1:{proxy.port}"]) as cut,
        engine(["--bridge-url", store.url]) as other,
        Worker(store.url) as operator,
        Worker(cut.url) as slow,
    ):

        def fail(event: dict[str, Any]) -> None:
            raise ValueError("not here")

        policy = {"retry": {"max_attempts": 1}}
        outcomes = slow.serve_slowly("handler")
        await slow.on("handler", **policy)
        await operator.set(1)
        await until(lambda: len(outcomes) == 1)
        async with Worker(other.url) as failing:
            failing.serve("handler", fail)
            await failing.on("handler", **policy)
            proxy.reply_bytes = lambda: 0
            proxy.cut_all()
            await until(lambda: _has_dead_letter(operator))
        if handled:
            outcomes[0].set_result(None)
        else:
            outcomes[0].set_exception(ValueError("not here either"))
        await slow("engine::functions::list")  # the engine has heard of it
        proxy.reply_bytes = lambda: None
        await slow.set(2, scope="elsewhere")  # it is connected again
        assert await operator("iii-state::dead_retry") == {"retried": 1}
        await until(lambda: len(outcomes) == 2)
        outcomes[1].set_result(None)
        await until(lambda: _is_empty(operator))
        assert (await operator("iii-state::dead_list"))["dead"] == []


async def _has_dead_letter(worker: Worker) -> bool:
    return len((await worker("iii-state::dead_list"))["dead"]) == 1


async def _is_empty(worker: Worker) -> bool:
    return all(row["waiting"] + row["pending"] == 0 for row in await worker.rows())


@pytest.mark.parametrize("kind", REMOTES)
async def test_what_was_handled_while_the_link_was_cut_is_not_handled_again(kind: str) -> None:
    async with bridged(kind) as (_, proxy, writer, worker):
        outcomes = worker.serve_slowly("handler")
        await worker.on("handler")
        await writer.set(1)
        await writer.set(2)
        await until(lambda: len(outcomes) == 1)
        proxy.reply_bytes = lambda: 0
        proxy.cut_all()
        outcomes[0].set_result(None)
        await worker("engine::functions::list")
        proxy.reply_bytes = lambda: None
        await until(lambda: len(outcomes) == 2)
        outcomes[1].set_result(None)
        await until(lambda: _is_empty(writer))
        assert worker.values() == [1, 2]


async def test_many_are_put_right_without_listing_all_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as store, running(bridge_to(store.url)) as bridge:
        failing = True

        def fail(event: dict[str, Any]) -> None:
            if failing:
                raise ValueError("not here")

        bridge.engine.register_function("handler", fail)
        trigger = {"type": "state", "function_id": "handler", "config": {"retry": {"max_attempts": 1}}}
        await bridge.engine.register_trigger(trigger)
        for number in range(60):
            await store("set", scope="s", key=str(number), value=number)

        async def dead() -> int:
            total: int = (await store("iii-state::dead_list"))["total"]
            return total

        async def all_are_dead() -> bool:
            return await dead() == 60

        await until(all_are_dead)
        admin, listings = store.module.adapter.admin, 0
        listed = admin.dead_letters

        def counted(function_id: str | None = None) -> Any:
            nonlocal listings
            listings += 1
            return listed(function_id)

        monkeypatch.setattr(admin, "dead_letters", counted)
        letters = (await bridge("iii-state::dead_list", function_id="handler", limit=30))["dead"]
        for letter in letters:
            assert await bridge("iii-state::dead_drop", id=letter["id"]) == {"dropped": 1}
        for function in ("iii-state::dead_drop", "iii-state::dead_retry"):
            with pytest.raises(FunctionError, match="NOT_FOUND: there is no dead letter"):
                await bridge(function, id=letters[0]["id"])
        failing = False
        assert await bridge("iii-state::dead_retry", function_id="handler") == {"retried": 30}
        assert await dead() == 0
        assert listings < 15
