"""Sessions: a mutation that is made again is answered as the first time and changes nothing, and stragglers are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iii_state import values
from iii_state.adapters.base import Adapter, Updated
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis.keys import Keys, caller_session
from iii_state.errors import (
    MAX_RECORDED_BYTES,
    FunctionError,
    OldValueUnknown,
    RequestFenced,
    SessionLost,
    SessionTaken,
    StoreError,
)
from iii_state.events import QueueLimits
from iii_state.sessions import SESSION_SECONDS, Request
from tests.support.redis.server import shared_server
from tests.support.slow import slow
from tests.support.stores import ALL, LIMIT, Store, drain, opened, plan, stored
from tests.support.waiting import answer_of, until

FIRST = Request("session-1", 1, 0, 1)
INCREMENT = plan({"type": "increment", "path": "n", "by": 1})
SOME_FAIL = plan({"type": "increment", "path": "t", "by": 1}, {"type": "append", "path": "list", "value": {"a": []}})

Mutation = Callable[[Store, Request | None], Any]
MUTATIONS: dict[str, Mutation] = {
    "set": lambda store, request: store.set("s", "k", stored({"new": 1}), request=request),
    "delete": lambda store, request: store.delete("s", "k", request=request),
    "update": lambda store, request: store.update("s", "k", INCREMENT, LIMIT, request=request),
    "update with a failing op": lambda store, request: store.update("s", "k", SOME_FAIL, LIMIT, request=request),
}
every_mutation = pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)
OLD = [None, {"t": "x", "n": 1, "list": [1]}, {}, None, 1.5, [1, [2]], "text"]


async def contents(store: Store) -> Any:
    return [sorted(await store.entries(scope)) for scope in sorted(await store.scopes())]


@every_mutation
async def test_a_call_made_again_is_answered_alike_and_happens_once(store: Store, mutate: Mutation) -> None:
    await store.open("session-1", 0, 1)
    await store.subscribe(ALL)
    for seq, old in enumerate(OLD, 1):
        if old is None:
            await store.delete("s", "k")
        else:
            await store.set("s", "k", stored(old))
        await drain(store, ALL)
        request = Request("session-1", 1, seq % 3, seq)
        answer = await mutate(store, request)
        after = await contents(store)
        assert await mutate(store, request) == answer
        await store.set("s", "other", b"1")
        assert await mutate(store, request) == answer
        await store.delete("s", "other")
        assert await contents(store) == after
        events = await drain(store, ALL)
        assert [delivery.event.key for delivery in events].count("k") == 1


@every_mutation
async def test_it_does_what_a_call_without_a_ticket_does(store: Store, mutate: Mutation) -> None:
    await store.open("session-1", 0, 1)
    for seq, old in enumerate(OLD, 1):
        outcomes = []
        for request in (None, Request("session-1", 1, 0, seq)):
            await store.delete("s", "k")
            if old is not None:
                await store.set("s", "k", stored(old))
            outcomes.append((await mutate(store, request), await contents(store)))
        assert outcomes[0] == outcomes[1]


@every_mutation
async def test_a_straggler_is_refused_and_changes_nothing(store: Store, mutate: Mutation) -> None:
    await store.set("s", "k", stored({"n": 1}))
    await store.open("session-1", 0, 3)
    await mutate(store, Request("session-1", 3, 0, 7))
    await store.open("session-1", 3, 5)
    await store.subscribe(ALL)
    before = await contents(store)
    for epoch, slot, seq in ((3, 0, 7), (3, 0, 8), (3, 1, 9), (4, 0, 9), (6, 0, 9), (5, 0, 6)):
        with pytest.raises(RequestFenced):
            await mutate(store, Request("session-1", epoch, slot, seq))
    assert await contents(store) == before
    assert await store.take(ALL.id, 10) == []


async def test_what_was_applied_before_a_reconnect_is_recognised_after_it(store: Store) -> None:
    await store.open("session-1", 0, 1)
    answer = await store.update("s", "k", INCREMENT, LIMIT, request=FIRST)
    await store.open("session-1", 1, 2)
    assert await store.update("s", "k", INCREMENT, LIMIT, request=msgspec.structs.replace(FIRST, epoch=2)) == answer
    assert await store.get("s", "k") == stored({"n": 1})


@every_mutation
async def test_an_unknown_session_is_an_error_and_changes_nothing(store: Store, mutate: Mutation) -> None:
    await store.set("s", "k", stored({"n": 1}))
    before = await contents(store)
    with pytest.raises(SessionLost, match="not known"):
        await mutate(store, FIRST)
    assert await contents(store) == before


async def test_opening_sessions(store: Store) -> None:
    with pytest.raises(SessionLost):
        await store.open("session-1", 1, 2)
    await store.open("session-1", 0, 4)
    await store.open("session-2", 0, 1)
    for previous, epoch in ((0, 5), (3, 4), (1, 2)):
        with pytest.raises(SessionTaken):
            await store.open("session-1", previous, epoch)
    await store.open("session-1", 4, 9)
    await store.set("s", "k", b"1", request=Request("session-1", 9, 0, 1))
    await store.set("s", "k", b"2", request=Request("session-2", 1, 0, 1))
    assert await store.set("s", "k", b"3", request=Request("session-1", 9, 1, 2)) == b"2"


async def test_what_was_refused_is_not_recorded(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, QueueLimits(max_queue_length=1)) as store:
        await store.open("session-1", 0, 1)
        await store.subscribe(ALL)
        await store.set("s", "other", b"1")
        with pytest.raises((StoreError, FunctionError), match="is full"):
            await store.set("s", "k", b"1", request=FIRST)
        await drain(store, ALL)
        assert await store.set("s", "k", b"1", request=FIRST) is None
        assert await store.set("s", "k", b"1", request=FIRST) is None
        assert len(await drain(store, ALL)) == 1


async def test_a_large_old_value_is_not_recorded_and_that_is_said(store: Store) -> None:
    await store.open("session-1", 0, 1)
    for seq, (size, known) in enumerate(((MAX_RECORDED_BYTES, True), (MAX_RECORDED_BYTES + 1, False)), 1):
        large = values.encode("x" * (size - 2))
        request = Request("session-1", 1, 0, seq)
        await store.set("s", "k", large)
        assert await store.set("s", "k", b"1", request=request) == large
        if known:
            assert await store.set("s", "k", b"1", request=request) == large
        else:
            with pytest.raises(OldValueUnknown, match="was applied"):
                await store.set("s", "k", b"1", request=request)
        assert await store.get("s", "k") == b"1"


async def test_many_calls_in_flight_each_with_its_slot(store: Store) -> None:
    await store.open("session-1", 0, 1)
    requests = [Request("session-1", 1, slot, slot + 1) for slot in range(100)]
    calls = [store.update("s", "k", INCREMENT, LIMIT, request=request) for request in requests for _ in range(2)]
    made = await asyncio.gather(*calls)
    assert made[::2] == made[1::2]
    assert {values.decode(updated.new)["n"] for updated in made} == set(range(1, 101))


async def test_a_store_has_an_id_that_lasts_with_its_data(kind: str, tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        async with opened(kind, tmp_path) as store:
            assert store.adapter.store
            ids.append(store.adapter.store)
    assert (ids[0] == ids[1]) == (kind == "kv-file" or kind.startswith("cluster") or kind.endswith("redis"))
    async with opened(kind, tmp_path / "another") as store:
        assert store.adapter.store not in ids


@pytest.mark.parametrize("kind", ["kv-file", "redis", slow("fakeredis")])
async def test_sessions_outlive_the_engine(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        await store.open("session-1", 0, 1)
        answer = await store.update("s", "k", SOME_FAIL, LIMIT, request=FIRST)
        again = await store.update("s", "k", SOME_FAIL, LIMIT, request=Request("session-1", 1, 1, 2))
    async with opened(kind, tmp_path) as store:
        with pytest.raises(SessionTaken):
            await store.open("session-1", 0, 2)
        await store.open("session-1", 1, 2)
        assert await store.update("s", "k", SOME_FAIL, LIMIT, request=Request("session-1", 2, 0, 1)) == answer
        assert await store.update("s", "k", SOME_FAIL, LIMIT, request=Request("session-1", 2, 1, 2)) == again
        with pytest.raises(RequestFenced):
            await store.update("s", "k", SOME_FAIL, LIMIT, request=FIRST)


@pytest.mark.parametrize("kind", ["redis", slow("fakeredis")])
async def test_a_caller_that_goes_over_to_another_engine_of_the_same_redis(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        assert one.adapter.store == other.adapter.store
        await one.open("session-1", 0, 1)
        answer = await one.update("s", "k", INCREMENT, LIMIT, request=FIRST)
        await other.open("session-1", 1, 2)
        assert await other.update("s", "k", INCREMENT, LIMIT, request=msgspec.structs.replace(FIRST, epoch=2)) == answer
        with pytest.raises(RequestFenced):
            await one.update("s", "k", INCREMENT, LIMIT, request=Request("session-1", 1, 1, 2))
        assert await one.get("s", "k") == stored({"n": 1})


async def test_a_session_in_redis_is_kept_from_expiring_while_it_is_used(tmp_path: Path) -> None:
    key = Keys().session(caller_session("session-1"))
    client = shared_server().client
    async with opened("redis", tmp_path) as store:
        await store.open("session-1", 0, 1)
        assert 0 < client.pttl(key) <= SESSION_SECONDS * 1000
        client.pexpire(key, 5000)
        await store.set("s", "k", b"1", request=FIRST)
        assert client.pttl(key) > 5000


@pytest.mark.parametrize("text", [b'{ "n": 1, "n": 2 }', b'[ 1, "\\u00e9" ]', b'"\\u0041"', b"{broken"])
async def test_values_of_other_writers(tmp_path: Path, text: bytes) -> None:
    client = shared_server().client
    async with opened("redis", tmp_path) as store:
        await store.open("session-1", 0, 1)
        append = plan({"type": "append", "path": "", "value": 1}, {"type": "set", "path": "m", "value": 1})
        appending: Mutation = lambda store, request: store.update("s", "k", append, LIMIT, request=request)  # noqa: E731
        for seq, mutate in enumerate((*MUTATIONS.values(), appending)):
            client.hset("state:s", "k", text)
            request = Request("session-1", 1, seq % 2, seq + 1)
            outcomes: list[Any] = []
            for _ in range(2):
                try:
                    outcomes.append(await mutate(store, request))
                except StoreError as error:
                    outcomes.append(str(error))
            assert outcomes[0] == outcomes[1]
            if isinstance(outcomes[0], Updated):
                assert client.hget("state:s", "k") == outcomes[0].new


@pytest.mark.parametrize("directory", [False, True], ids=["memory", "file"])
async def test_a_session_that_is_not_used_expires(directory: bool, tmp_path: Path) -> None:
    def open_adapter(seconds: float) -> Adapter:
        return KvAdapter(tmp_path if directory else None, session_seconds=seconds)

    store = Store(lambda limits: open_adapter(0.05))
    await store.start()
    await store.open("session-1", 0, 1)
    await store.set("s", "k", b"1", request=FIRST)

    async def expired() -> bool:
        try:
            await store.open("session-1", 0, 1)
        except SessionTaken:
            return False
        return True

    await until(expired)
    assert await store.set("s", "k", b"2", request=FIRST) == b"1", "its outcomes are gone with it"
    await until_gone(store)
    await store.adapter.stop()
    if directory:
        store = Store(lambda limits: open_adapter(60))
        await store.start()
        with pytest.raises(SessionLost):
            await store.open("session-1", 1, 2)
        await store.adapter.stop()


async def until_gone(store: Store) -> None:
    """Until `session-1` has expired; asking for it by its epoch would keep it."""

    async def gone() -> bool:
        assert isinstance(store.adapter, KvAdapter)
        return not store.adapter.sessions._used

    await until(gone)
    await store.set("s", "afterwards", b"1")


async def test_a_call_made_again_before_the_first_is_on_disk_waits_for_it(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        opening = store.adapter.sessions.open("session-1", 0, 1)
        calls = [store.adapter.values.update("s", "k", INCREMENT, LIMIT, request=FIRST) for _ in range(3)]
        assert asyncio.isfuture(opening)
        assert all(asyncio.isfuture(call) for call in calls)
        assert store.adapter.values.get("s", "k") is None
        updates = [await answer_of(call) for call in calls]
        assert updates == [Updated(None, stored({"n": 1}), [])] * 3
        assert store.adapter.values.get("s", "k") == stored({"n": 1})


async def test_what_could_not_be_written_is_not_recorded(tmp_path: Path) -> None:
    async with opened("kv-file", tmp_path) as store:
        await store.open("session-1", 0, 1)
        adapter = store.adapter
        assert isinstance(adapter, KvAdapter)
        journal = adapter._journal
        assert journal is not None
        await journal._call(lambda: journal._opened().execute("PRAGMA max_page_count=1").fetchall())
        large = values.encode("x" * 100_000)
        second = Request("session-1", 1, 1, 2)
        calls: list[Any] = [adapter.values.set("s", "k", large, request=FIRST)]
        await asyncio.sleep(0)  # what follows is in the next group, if that has one yet
        calls += [adapter.values.set("s", "k", large, request=FIRST), adapter.values.set("s", "k", large, request=second)]
        calls.append(adapter.sessions.open("session-2", 0, 1))
        for call in calls:
            assert asyncio.isfuture(call)
            with pytest.raises(StoreError, match="full"):
                await call
        await journal._call(lambda: journal._opened().execute("PRAGMA max_page_count=1000000").fetchall())
        with pytest.raises(SessionLost):
            await store.set("s", "k", large, request=msgspec.structs.replace(FIRST, session="session-2"))
        assert await store.set("s", "k", large, request=second) is None
        assert await store.get("s", "k") == large
        assert await store.set("s", "k", b"1", request=FIRST) == large
