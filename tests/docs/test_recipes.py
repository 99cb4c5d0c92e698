"""The recipes, as they stand on their page, each in the race that it is for, over every adapter."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

from iii_state import ConditionUnmet, Event, State, ops
from tests.support import ROOT
from tests.support.engines.embedded import embedded, kind, state

__all__ = ["embedded", "kind", "state"]

PAGE = (ROOT / "iii_state" / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))


def recipe(name: str) -> Any:
    """What a recipe defines."""
    defined: dict[str, Any] = {"__name__": f"recipes.{name}"}
    exec(compile(RECIPES[name], f"recipes.md: {name}", "exec"), defined)
    return SimpleNamespace(**defined)


async def until(is_so: Any) -> None:
    async with asyncio.timeout(30):
        while not await is_so():
            await asyncio.sleep(0.02)


def test_every_recipe_is_run() -> None:
    with open(__file__, encoding="utf-8") as here:
        assert set(re.findall(r'recipe\("(\w+)"\)', here.read())) == set(RECIPES)
    assert len(re.findall(r"^```python$", PAGE, re.MULTILINE)) == len(RECIPES)


async def test_a_lock_lets_one_in_at_a_time(state: State) -> None:
    lock = recipe("lock")
    await state.set("s", "n", 0)

    async def work(owner: str) -> None:
        for _ in range(3):
            while not await lock.acquire(state, "l", owner, 60_000):
                await asyncio.sleep(0.001)
            found = await state.get("s", "n")  # and written back later: without the lock, some are lost
            assert await lock.renew(state, "l", owner, 60_000)
            await state.set("s", "n", found + 1)
            assert await lock.release(state, "l", owner)

    await asyncio.gather(*(work(f"w{number}") for number in range(8)))
    assert await state.get("s", "n") == 24


async def test_a_lock_whose_holder_died_is_taken_and_the_dead_cannot_give_it_back(state: State) -> None:
    lock = recipe("lock")
    assert await lock.acquire(state, "l", "dead", 200)
    await until(lambda: lock.acquire(state, "l", "alive", 60_000))
    assert not await lock.renew(state, "l", "dead", 60_000)
    assert not await lock.release(state, "l", "dead")
    assert await state.get("locks", "l") == "alive"


async def test_there_is_one_leader_and_another_when_it_is_silent(state: State) -> None:
    campaign = recipe("leader").campaign
    names = [f"c{number}" for number in range(10)]
    [leader] = set(await asyncio.gather(*(campaign(state, "role", name, 60_000) for name in names)))
    assert leader in names
    assert await campaign(state, "role", leader, 300) == leader
    others = [name for name in names if name != leader]

    async def is_followed() -> bool:
        found = set(await asyncio.gather(*(campaign(state, "role", name, 60_000) for name in others)))
        return len(found) == 1 and found != {leader}

    await until(is_followed)
    assert await campaign(state, "role", leader, 60_000) != leader


async def test_a_limiter_lets_so_many_through(state: State) -> None:
    allow = recipe("limiter").allow
    hour = 3_600_000
    answers = await asyncio.gather(*(allow(state, who, 7, hour) for who in ("a", "b") for _ in range(30)))
    windows = len(await state.list_keys("limits", prefix="a/"))  # two, if the hour turned just now
    assert answers[:30].count(True) in (7, 7 * windows)
    assert (await state.list("limits", prefix="b/"))[0] == {"calls": 7}


async def test_fifty_buyers_get_ten_things(state: State) -> None:
    buy = recipe("inventory").buy
    await state.set("shop", "items/tea", {"stock": 10})
    bought = await asyncio.gather(*(buy(state, "tea", 1, f"o{number}") for number in range(50)))
    assert bought.count(True) == 10
    assert await state.get("shop", "items/tea") == {"stock": 0}
    assert len(await state.list_keys("shop", prefix="orders/")) == 10
    await state.update("shop", "items/tea", [ops.increment("stock", 5)])
    first = f"o{bought.index(True)}"
    assert not await buy(state, "tea", 1, first), "it was made already"
    assert await state.get("shop", "items/tea") == {"stock": 5}


async def test_an_event_that_comes_again_counts_once(state: State) -> None:
    count = recipe("consumer").count
    events = [Event("paid", f"p{n}", "state:created", None, {"cents": n}, event_id=f"e{n}") for n in range(1, 21)]
    done = await asyncio.gather(*(count(state, event) for event in events * 3))
    assert done.count(True) == 20
    assert await state.get("totals", "total") == {"cents": 210}


async def test_caches_are_told_and_never_stay_behind(state: State) -> None:
    caches = [recipe("cache").Cache(state, "products", name) for name in ("a", "b")]
    await state.start()

    async def read() -> None:
        while (await state.get("products", "done")) is None:
            await asyncio.gather(*(cache.get(f"k{number}") for cache in caches for number in range(3)))

    async def write() -> None:
        for number in range(60):
            await state.set("products", f"k{number % 3}", number)
        await state.set("products", "done", True)

    await asyncio.gather(read(), write())
    for cache in caches:
        for number in range(3):

            async def is_new(cache: Any = cache, number: int = number) -> bool:
                return bool(await cache.get(f"k{number}") == 57 + number)

            await until(is_new)


async def test_the_trail_has_every_change_once_and_without_a_gap(state: State) -> None:
    trail = recipe("audit").trail
    await asyncio.gather(*(state.update("ledger", "l", [ops.increment()]) for _ in range(30)))
    found = [line async for line in trail(state, "ledger")]
    assert [int(line.split()[0]) for _, line in found] == list(range(1, 31))
    assert [line.rpartition(": ")[2] for _, line in found] == ["None -> 1", *(f"{n} -> {n + 1}" for n in range(1, 30))]
    assert [line async for line in trail(state, "ledger", found[19][0])] == found[20:]


async def test_what_stands_in_the_outbox_is_sent_and_nothing_else(state: State) -> None:
    outbox = recipe("outbox")
    sent: Counter[str] = Counter()

    async def send(message_id: str, message: Any) -> None:
        sent[message_id] += 1
        if message_id == "outbox/o1" and sent[message_id] == 1:
            raise OSError("the mail server is away")

    outbox.deliver(state, send)
    await state.start()
    placed = await asyncio.gather(*(outbox.place(state, f"o{n % 5}", {"n": n}) for n in range(15)), return_exceptions=True)
    assert placed.count(None) == 5
    assert all(isinstance(each, ConditionUnmet) for each in placed if each is not None)

    async def is_empty() -> bool:
        return await state.list_keys("sales", prefix="outbox/") == []

    await until(is_empty)
    assert set(sent) == {f"outbox/o{n}" for n in range(5)}
    assert sent["outbox/o1"] == 2
