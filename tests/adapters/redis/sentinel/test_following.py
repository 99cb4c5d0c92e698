"""An engine follows its primary: every connection leaves the old one at once, and waits in words where there is none."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import Iterator

import pytest

from iii_state.adapters.redis.connection.address import Address
from iii_state.adapters.redis.connection.primary import Primary
from iii_state.adapters.redis.connection.sentinel import find_primary
from iii_state.errors import NoAnswer, StoreError
from tests.support.engines.processes import free_port
from tests.support.redis.adapters import adapter_on
from tests.support.redis.sentinels import NAME, SentinelGroup, SentinelProcess, sentinel_group
from tests.support.redis.server import RedisServer, shared_server
from tests.support.waiting import answer_of, until


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with sentinel_group() as running:
        yield running


def connected(server: RedisServer) -> set[str]:
    """What the connections of an adapter to a server are for."""
    found = {client["name"] for client in server.client.client_list() if client["name"].startswith("iii-state:")}
    return {name if name in ("iii-state:bells", "iii-state:replicas") else "iii-state:calls" for name in found}


async def until_promoted(group: SentinelGroup) -> RedisServer:
    """Wait until most of the Sentinels name another server, and return that. An engine may know it from one of them before."""
    await until(lambda: group.primary() is not group.first)
    return group.primary()


async def until_replicated(group: SentinelGroup) -> None:
    """Wait until all have the value that was written: whichever is promoted has it then."""
    await until(lambda: all(server.client.hget("state:s", "k") == b"1" for server in group.servers))


EVERYTHING = {"iii-state:bells", "iii-state:replicas", "iii-state:calls"}


async def test_every_connection_leaves_a_primary_that_works_on_when_another_is_promoted(group: SentinelGroup) -> None:
    async with adapter_on(group.url, wait_replicas=1, call_timeout_ms=20_000) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        await until(lambda: connected(group.first) == EVERYTHING)
        await until_replicated(group)
        await asyncio.to_thread(group.fail_over)
        await until(lambda: connected(group.first) == set())
        promoted = await until_promoted(group)
        await until(lambda: connected(promoted) == EVERYTHING)
        assert await answer_of(adapter.values.set("s", "k", b"2")) == b"1"
        assert group.primary().client.hget("state:s", "k") == b"2"

    # A Sentinel that was cut off together with an old primary names that one: this one stands for it, and is asked first.
    stale = SentinelProcess(free_port(), secrets.token_hex(20), shared_server().port, {}, down_after_ms=500)
    try:
        ports = [sentinel.port for sentinel in (stale, *group.sentinels[:2])]
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{NAME}"
        assert [int(stale.client.sentinel_get_master_addr_by_name(NAME)[1])] == [shared_server().port]
        for _ in range(5):
            assert (await find_primary(Address.parse(url))).place == ("127.0.0.1", group.primary().port)
    finally:
        stale.close()


async def test_nothing_is_written_to_a_primary_while_a_replica_is_promoted_in_its_place(group: SentinelGroup) -> None:
    """It works on, and what it is sent would be lost. Here the replica says nothing, so the Sentinel gives up, and all goes on."""
    async with adapter_on(group.url, call_timeout_ms=20_000) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        await until(lambda: connected(group.first) == EVERYTHING - {"iii-state:replicas"})
        group.sentinels[0].client.sentinel_set(NAME, "failover-timeout", 5000)
        for replica in group.servers[1:]:
            replica.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(group.fail_over)
        await until(lambda: connected(group.first) == set())
        told = "has not answered within"
        while "has not answered within" in told:  # Sentinels that share a busy machine may take longer than they are given
            with pytest.raises(StoreError) as refused:
                await find_primary(Address.parse(group.url))
            told = str(refused.value)
        assert told == f"the Sentinels of {NAME} have a replica promoted at this moment"
        written = asyncio.ensure_future(answer_of(adapter.values.set("s", "k", b"2")))
        assert group.first.client.hget("state:s", "k") == b"1"
        assert await written == b"1"
        assert group.first.client.hget("state:s", "k") == b"2"


async def test_a_primary_that_says_nothing_is_left_when_another_is_promoted(group: SentinelGroup) -> None:
    async with adapter_on(group.url, wait_replicas=1, call_timeout_ms=600_000) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        await until(lambda: connected(group.first) == EVERYTHING)
        await until_replicated(group)
        group.set_down_after()
        group.first.process.send_signal(signal.SIGSTOP)
        assert await answer_of(adapter.values.set("s", "k", b"2")) == b"1"
        promoted = await until_promoted(group)
        await until(lambda: connected(promoted) == EVERYTHING)


async def test_a_connection_that_finds_another_primary_has_all_others_leave_the_old_one(group: SentinelGroup) -> None:
    """Also where no Sentinel was heard, as here, where none is listened to."""
    primary = Primary(Address.parse(group.url))
    old = await primary.open("test")
    group.set_down_after()
    group.first.process.send_signal(signal.SIGSTOP)
    promoted = await until_promoted(group)
    new = await primary.open("test")
    await until(old.closed.done)
    assert f"it is at 127.0.0.1:{promoted.port} ({NAME}) now" in old.trouble
    assert (new.address.place, new.closed.done()) == (("127.0.0.1", promoted.port), False)
    new.abort()
    await new.closed


async def test_a_promotion_cuts_all_pauses_short(group: SentinelGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("connection.pubsub", "connection.connection", "mutations.confirming"):
        monkeypatch.setattr(f"iii_state.adapters.redis.{module}.BACKOFF_SECONDS", 3600)
        monkeypatch.setattr(f"iii_state.adapters.redis.{module}.MAX_BACKOFF_SECONDS", 3600, raising=False)
    async with adapter_on(group.url, wait_replicas=1, call_timeout_ms=20_000) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        await until(lambda: connected(group.first) == EVERYTHING)
        await until_replicated(group)
        group.set_down_after()
        await asyncio.to_thread(group.first.kill)
        assert await answer_of(adapter.values.set("s", "k", b"2")) == b"1"
        promoted = await until_promoted(group)
        await until(lambda: connected(promoted) == EVERYTHING)


async def test_calls_wait_while_there_is_no_primary_and_say_so_when_their_time_is_over(group: SentinelGroup) -> None:
    async with adapter_on(group.url, call_timeout_ms=2500) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        group.set_down_after()
        for server in reversed(group.servers):
            await asyncio.to_thread(server.kill)
        await until(lambda: all(sentinel.client.sentinel_master(NAME)["is_sdown"] for sentinel in group.sentinels))
        down = f"the primary of {NAME}, Redis at 127.0.0.1:{group.first.port} ({NAME}), is down"
        with pytest.raises(NoAnswer) as raised:
            await answer_of(adapter.values.set("s", "k", b"2"))
        assert f"{down}, and its Sentinels have promoted no other yet; given up after 2500 ms; nothing was changed" in str(
            raised.value
        )
        with pytest.raises(StoreError, match="is down, and its Sentinels have promoted no other yet"):
            async with adapter_on(group.url):
                pass
        for sentinel in group.sentinels:
            await asyncio.to_thread(sentinel.kill)
        with pytest.raises(NoAnswer, match=f"no Sentinel of {NAME} answers: Connection to Sentinel at .* refused"):
            await answer_of(adapter.values.get("s", "k"))
        for server in group.servers:
            await asyncio.to_thread(server.start)
        for sentinel in group.sentinels:
            await asyncio.to_thread(sentinel.start)

        async def answers() -> bool:
            return await adapter.health() is None

        await until(answers)
        assert await answer_of(adapter.values.set("s", "k", b"3")) is None  # they kept nothing on disk


async def test_a_replica_that_a_sentinel_takes_for_the_primary_is_refused(group: SentinelGroup) -> None:
    wrong = SentinelProcess(free_port(), secrets.token_hex(20), group.servers[1].port, {}, down_after_ms=500)
    try:
        with pytest.raises(StoreError, match="is a replica by now, and its Sentinels do not know it yet"):
            async with adapter_on(f"redis+sentinel://127.0.0.1:{wrong.port}/{NAME}"):
                pass
    finally:
        wrong.close()
