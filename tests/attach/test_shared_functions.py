"""Two bridges to one stock engine, which gives the function that they share to one of them: when that is gone, the other has it."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from iii_state.client.about import About
from iii_state.client.client import Client
from tests.support.bridge.engines import State, bridge_to, running
from tests.support.engines.attached import attached, said
from tests.support.engines.calls import call_over
from tests.support.engines.old_engine import OldEngine
from tests.support.waiting import until


@pytest.mark.parametrize("first_wins", [False, True], ids=["last-wins", "first-wins"])
async def test_events_of_two_bridges_go_on_when_the_owner_of_their_function_is_gone(first_wins: bool) -> None:
    async with OldEngine(first_wins=first_wins) as stock, Client(stock.url, About("a-writer")) as writer, AsyncExitStack() as stack:
        process = stack.enter_context(attached(stock.url))
        await said(process, "attached to")
        bridges: list[tuple[State, AsyncExitStack]] = []
        for _ in range(2):
            own = await stack.enter_async_context(AsyncExitStack())
            bridge = await own.enter_async_context(running(bridge_to(stock.url)))
            await bridge.watch(scope="s")
            bridges.append((bridge, own))

        def values_seen() -> list[int]:
            return sorted(value for bridge, _ in bridges for value in bridge.values_seen())

        await call_over(writer, "state::set", {"scope": "s", "key": "k", "value": 1})
        await until(lambda: values_seen() == [1])
        assert len([name for name in stock.functions if name.startswith("iii-state::bridge::")]) == 1, "they share one"
        owner = next(at for at, (bridge, _) in enumerate(bridges) if bridge.values_seen())
        await bridges[owner][1].aclose()
        await call_over(writer, "state::set", {"scope": "s", "key": "k", "value": 2})
        await until(lambda: values_seen() == [1, 2], lambda: f"only {values_seen()} were handled")
