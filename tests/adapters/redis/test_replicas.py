"""With `wait_replicas` an answer means that replicas have the write; without theirs it says what is known."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.errors import FunctionError, NotConfirmed, StoreError
from tests.support.redis.adapters import INCREMENT, SMALLEST_RULES, adapter_on
from tests.support.redis.proxy import proxy_to
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

LIMIT = values.MAX_VALUE_BYTES


@pytest.fixture
def primary() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def replica(primary: RedisServer) -> Iterator[RedisServer]:
    with RedisServer("--replicaof", "127.0.0.1", str(primary.port)) as running:
        yield running
        running.process.send_signal(signal.SIGCONT)


async def linked(replica: RedisServer) -> None:
    await until(lambda: replica.client.info("replication")["master_link_status"] == "up")


async def test_an_answer_means_that_the_replica_has_the_write(primary: RedisServer, replica: RedisServer) -> None:
    await linked(replica)
    async with adapter_on(primary.url, wait_replicas=1) as adapter:
        for number in range(50):
            await answer_of(adapter.values.set("s", "k", b"%d" % number))
            assert replica.client.hget("state:s", "k") == b"%d" % number
        updated = await answer_of(adapter.values.update("s", "n", INCREMENT, LIMIT))
        assert replica.client.hget("state:s", "n") == updated.new
        assert await answer_of(adapter.values.delete("s", "k")) == b"49"
        assert not replica.client.hexists("state:s", "k")
        await asyncio.gather(*(answer_of(adapter.values.set("s", f"k{number}", b"1")) for number in range(500)))
        assert replica.client.hlen("state:s") == 501


async def test_writes_that_no_replica_confirms_fail_in_words_and_reads_go_on(primary: RedisServer, replica: RedisServer) -> None:
    await linked(replica)
    async with adapter_on(primary.url, wait_replicas=1, call_timeout_ms=1500) as adapter:
        await answer_of(adapter.values.set("s", "k", b"1"))
        replica.process.send_signal(signal.SIGSTOP)
        waiting = [adapter.values.set("s", f"k{number}", b"2") for number in range(5)]
        await until(lambda: primary.client.hlen("state:s") == 6)
        assert await answer_of(adapter.values.get("s", "k4")) == b"2"
        assert len((await answer_of(adapter.values.entries("s"))).rows) == 6
        with pytest.raises(FunctionError, match="VALUE_TOO_LARGE"):
            await answer_of(adapter.values.update("s", "n", INCREMENT, 3))
        for answer in waiting:
            with pytest.raises(NotConfirmed, match=r"the change was made on Redis .* not confirmed .* of 1 replicas 0 have"):
                await answer_of(answer)
        replica.process.send_signal(signal.SIGCONT)
        waiting = [adapter.values.set("s", f"k{number}", b"3") for number in range(5)]
        await asyncio.gather(*map(answer_of, waiting))
        assert replica.client.hget("state:s", "k4") == b"3"


async def test_a_replica_that_comes_back_in_time_confirms_what_waits(primary: RedisServer, replica: RedisServer) -> None:
    await linked(replica)
    async with adapter_on(primary.url, wait_replicas=1, call_timeout_ms=20_000) as adapter:
        replica.process.send_signal(signal.SIGSTOP)
        answer = adapter.values.set("s", "k", b"1")
        await until(lambda: primary.client.hexists("state:s", "k"))
        replica.process.send_signal(signal.SIGCONT)
        assert await answer_of(answer) is None


async def test_what_another_server_confirms_counts_for_nothing(primary: RedisServer, replica: RedisServer) -> None:
    """The write is on a primary that is gone; the one that answers in its place has a replica that is up to date."""
    await linked(replica)
    with RedisServer() as other, RedisServer("--replicaof", "127.0.0.1", str(other.port)) as others_replica:
        await linked(others_replica)
        async with proxy_to(primary.port) as proxy, adapter_on(proxy.url, wait_replicas=1, call_timeout_ms=20_000) as adapter:
            replica.process.send_signal(signal.SIGSTOP)
            answer = asyncio.ensure_future(answer_of(adapter.values.set("s", "k", b"1")))
            await until(lambda: primary.client.hexists("state:s", "k"))
            assert not (await asyncio.wait([answer], timeout=0.1))[0]
            proxy.target = other.port
            proxy.cut_all()
            with pytest.raises(NotConfirmed, match="no longer the primary"):
                await answer
            assert await answer_of(adapter.values.set("s", "k", b"2")) is None
            assert others_replica.client.hget("state:s", "k") == b"2"


async def test_fewer_replicas_than_asked_for_are_said_at_the_start(primary: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with adapter_on(primary.url, wait_replicas=2, call_timeout_ms=500) as adapter:
        assert "has 0 replicas, and wait_replicas asks for 2" in caplog.text
        with pytest.raises(NotConfirmed, match="of 2 replicas 0 have"):
            await answer_of(adapter.values.set("s", "k", b"1"))


async def test_a_user_that_may_not_wait_is_refused_at_the_start(primary: RedisServer) -> None:
    primary.client.execute_command("ACL", "SETUSER", "app", "reset", "resetchannels", "on", ">pw", *SMALLEST_RULES.split(), "-wait")
    with pytest.raises(StoreError, match=r"wait_replicas needs \+info and \+wait"):
        async with adapter_on(f"redis://app:pw@127.0.0.1:{primary.port}", wait_replicas=1):
            pass


async def test_a_primary_that_wants_replicas_and_has_none_takes_no_writes(primary: RedisServer, replica: RedisServer) -> None:
    await linked(replica)
    primary.client.config_set("min-replicas-max-lag", "60")  # one that is killed counts no more at once
    primary.client.config_set("min-replicas-to-write", "1")
    await until(lambda: counted(primary) == 1)
    async with adapter_on(primary.url) as adapter:
        assert await answer_of(adapter.values.set("s", "k", b"1")) is None
        replica.kill()
        with pytest.raises(StoreError, match=r"has fewer replicas than it wants \(min-replicas-to-write\), and takes no writes"):
            await until(lambda: refused_or_none(adapter))
        held = primary.client.hget("state:s", "k")
        with pytest.raises(StoreError, match="has fewer replicas than it wants"):
            await answer_of(adapter.values.set("s", "k", b"3"))
        assert primary.client.hget("state:s", "k") == held
        replica.start()
        await linked(replica)
        await until(lambda: counted(primary) == 1)
        assert await answer_of(adapter.values.set("s", "k", b"4")) == held


def counted(primary: RedisServer) -> int:
    """How many replicas a primary counts that wants some: one that is linked is not at once among them."""
    return int(primary.client.info("replication")["min_slaves_good_slaves"])


async def refused_or_none(adapter: RedisAdapter) -> None:
    """Write once more."""
    await answer_of(adapter.values.set("s", "k", b"2"))
