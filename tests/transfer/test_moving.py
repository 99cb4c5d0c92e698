"""A stopped fleet's state is moved as a whole: to another Redis, into a cluster, out of it, to another number of partitions."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import redis

from iii_state.adapters.base import Adapter
from iii_state.adapters.redis.cluster.tags import tags
from iii_state.adapters.redis.opening import open_redis
from iii_state.config import RedisSettings
from iii_state.errors import ConfigError, StateError, StoreError, TransferError
from iii_state.events import Failure, RetryPolicy, Subscription
from iii_state.history import LogRule, LogRules
from iii_state.transfer.moving.move import Move, Moved
from iii_state.transfer.moving.parted import opened
from tests.support.redis.nodes import Nodes, shared_nodes
from tests.support.redis.server import shared_server
from tests.support.slow import slow
from tests.support.stores import stored
from tests.support.waiting import answer_of, until
from tests.transfer.adapters import running, taken

HOUR_MS = 3_600_000
RULES = LogRules([LogRule(scope_prefix="logged")])
FAILURE = Failure("FAILED", "it failed")
SUBSCRIPTIONS = [
    Subscription("all", retention_ms="forever"),
    Subscription("one", scope="scope-1", retention_ms=HOUR_MS, retry=RetryPolicy(max_attempts=7), max_queue_length=1000),
    Subscription("prefix", scope_prefix="scope-", retention_ms=HOUR_MS, concurrency=3),
    Subscription("idle", scope="nothing happens here", retention_ms=HOUR_MS),
]
SCOPES = [f"scope-{number}" for number in range(12)] + ["logged-1", "logged-2", "", "with: colon", "ü{}*?[]", "long" * 40]


def on_one(number: int, prefix: str = "iii-state") -> RedisSettings:
    """A database of the tests' Redis."""
    return RedisSettings(redis_url=f"{shared_server().url}/{number}", prefix=prefix)


def on_cluster(partitions: int, prefix: str = "iii-state") -> RedisSettings:
    return RedisSettings(redis_url=shared_nodes().url, prefix=prefix, partitions=partitions)


@pytest.fixture
def nodes() -> Nodes:
    nodes = shared_nodes()
    nodes.empty()
    return nodes


@pytest.fixture(autouse=True)
def empty() -> None:
    shared_server().client.flushall()


@asynccontextmanager
async def adapter_of(settings: RedisSettings) -> AsyncIterator[Adapter]:
    adapter = await open_redis(settings, history=RULES)
    async with running(adapter):
        yield adapter


async def fill(settings: RedisSettings) -> None:
    """What a fleet can leave behind: of everything something, in all its states."""
    async with adapter_of(settings) as adapter:
        for subscription in SUBSCRIPTIONS:
            await answer_of(adapter.queues.subscribe(subscription))
        for number in range(3):
            for scope in SCOPES:
                await answer_of(adapter.values.set(scope, "k", stored({"n": number})))
                await answer_of(adapter.values.set(scope, f"key {number}", stored(number), ttl_ms=HOUR_MS))
        await answer_of(adapter.values.delete("scope-2", "k"))
        for delivery in await taken(adapter, SUBSCRIPTIONS[0], 5):
            await answer_of(adapter.queues.dead_letter(delivery, FAILURE))
        for number, delivery in enumerate(await taken(adapter, SUBSCRIPTIONS[2], 4)):
            await answer_of(adapter.queues.retry(delivery, 900 + number, FAILURE, crashed=number == 3))


@dataclass
class Held:
    """What engines find in a store."""

    values: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    deadlines: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: dict[str, list[Any]] = field(default_factory=dict)
    stats: list[tuple[Any, ...]] = field(default_factory=list)
    dead: list[tuple[Any, ...]] = field(default_factory=list)
    handled: dict[str, dict[tuple[str, str], list[Any]]] = field(default_factory=dict)
    """Of each subscription and lane: what was handed out, in order."""


async def held_in(settings: RedisSettings) -> Held:
    """Everything in a store; its queues are empty afterwards."""
    held = Held()
    async with adapter_of(settings) as adapter:
        for subscription in SUBSCRIPTIONS:
            await answer_of(adapter.queues.subscribe(subscription))
        stats = await answer_of(adapter.admin.stats())
        held.stats = sorted((each.subscription.function_id, each.subscription, each.dead, each.dropped) for each in stats)
        events = {each.subscription.function_id: each.waiting + each.pending for each in stats}
        held.stats += sorted(events.items())
        for scope in sorted(await answer_of(adapter.values.scopes())):
            entries = await answer_of(adapter.values.entries(scope))
            held.values[scope] = sorted(entries.rows)
            held.deadlines[scope] = dict(sorted(entries.deadlines.items()))
            if scope.startswith("logged"):
                page = await answer_of(adapter.history.page(scope, None, None, 1000))
                held.changes[scope] = list(page.changes)
        held.dead = sorted(
            (letter.buried_at_ms, letter.function_id, repr(letter.event), letter.attempts, letter.error)
            for letter in await answer_of(adapter.admin.dead_letters())
        )
        for subscription in SUBSCRIPTIONS:
            held.handled[subscription.function_id] = await _handled(adapter, subscription)
    return held


async def _handled(adapter: Adapter, subscription: Subscription) -> dict[tuple[str, str], list[Any]]:
    handled: dict[tuple[str, str], list[Any]] = defaultdict(list)

    async def is_empty() -> bool:
        deliveries = await answer_of(adapter.queues.take(subscription.id, 100))
        for delivery in deliveries:
            event = delivery.event
            handled[event.scope, event.key].append((event.event_type, event.old, event.new, delivery.attempt, delivery.crashes))
        await answer_of(adapter.queues.ack(deliveries))
        (stats,) = [each for each in await answer_of(adapter.admin.stats()) if each.subscription.id == subscription.id]
        return bool(stats.waiting + stats.pending + stats.retrying == 0)

    await until(is_empty)
    return dict(handled)


async def moved(source: RedisSettings, target: RedisSettings, progress: Callable[[Moved], None] = lambda moved: None) -> Moved:
    async with (
        opened(source) as from_store,
        opened(target, wanted=target.partitions, is_target=True) as to_store,
    ):
        return await Move(from_store, to_store, progress).run()


def assert_same(found: Held, wanted: Held) -> None:
    """The same; an engine tells deadlines by its own clock, to a millisecond or two."""
    assert replace(found, deadlines={}) == replace(wanted, deadlines={})
    for scope, deadlines in wanted.deadlines.items():
        assert found.deadlines[scope] == pytest.approx(deadlines, abs=50)


PATHS = {
    "to another database": lambda: [on_one(1), on_one(2)],
    "to another prefix": lambda: [on_one(1), on_one(1, "other")],
    "into a cluster and out of it": lambda: [on_one(1), on_cluster(8), on_one(2)],
    "to other partitions": lambda: [on_cluster(3), on_cluster(8, "other"), on_cluster(2, "third")],
}


@pytest.mark.parametrize("path", PATHS)
async def test_everything_is_moved_and_the_source_stays(nodes: Nodes, path: str) -> None:
    first, *others = PATHS[path]()
    await fill(first)
    before = first
    for following in others:
        done = await moved(before, following)
        assert done.holding.subscriptions == len(SUBSCRIPTIONS)
        assert done.holding.planned == 4
        before = following
    found, wanted = await held_in(others[-1]), await held_in(first)
    assert_same(found, wanted)
    assert len(wanted.dead) == 5
    assert sum(map(len, wanted.handled["all"].values())) == 2 * 3 * len(SCOPES) + 1 - 5
    assert {attempt for each in wanted.handled["prefix"].values() for *_, attempt, _ in each} == {1, 2}


async def test_what_was_pending_at_a_killed_engine_is_handed_out_again_with_a_higher_fence() -> None:
    await fill(on_one(1))
    client: Any = redis.Redis.from_url(on_one(1).redis_url)
    stream = f"iii-state:q:{SUBSCRIPTIONS[0].id}"
    pending: Any = client.xreadgroup("engines", "gone", {stream: ">"}, count=3)
    fence = int(client.hget(f"iii-state:busy:{SUBSCRIPTIONS[0].id}", "fence") or 0)
    assert len(pending[0][1]) == 3
    done = await moved(on_one(1), on_one(2))
    target: Any = redis.Redis.from_url(on_one(2).redis_url)
    for each in SUBSCRIPTIONS:
        counted, before = (at.hgetall(f"iii-state:busy:{each.id}") for at in (target, client))
        assert {**counted, b"fence": b""} == {**before, b"fence": b""}
    async with adapter_of(on_one(2)) as adapter:
        await answer_of(adapter.queues.subscribe(SUBSCRIPTIONS[0]))
        deliveries = await taken(adapter, SUBSCRIPTIONS[0], 3)
        assert [delivery.fence for delivery in deliveries] == [fence + 1] * 3
    assert done.holding.events == sum(
        client.xlen(f"iii-state:q:{each.id}")
        + sum(client.llen(name) // 6 for name in client.scan_iter(f"iii-state:wait:{each.id}:*"))
        for each in SUBSCRIPTIONS
    )


async def test_what_is_left_of_retentions_stays_and_pauses_and_counts_do(nodes: Nodes) -> None:
    await fill(on_cluster(3))
    (queue,) = [each.id for each in SUBSCRIPTIONS if each.function_id == "prefix"]
    (scoped,) = [each.id for each in SUBSCRIPTIONS if each.function_id == "one"]
    client = nodes.client()
    clients = dict(zip(tags(3), [client] * 3, strict=True))
    for tag in clients:
        client.hset(b"%biii-state:paused" % tag, queue, "1795792618717 {}")
        client.hset(b"%biii-state:sub:%b" % (tag, queue.encode()), mapping={"dropped": 2, "lost": 1})
    await moved(on_cluster(3), on_one(2))
    target: Any = redis.Redis.from_url(on_one(2).redis_url)
    fields = target.hgetall(f"iii-state:sub:{queue}")
    assert (fields[b"dropped"], fields[b"lost"], b"retention" in fields) == (b"6", b"3", True)
    assert not [field for field in fields if field.startswith(b"at:")]
    assert target.hgetall("iii-state:paused") == {queue.encode(): b"1795792618717 {}"}
    stood = int(target.hget("iii-state:clock", "last"))
    for name in (queue, scoped):
        left = target.zscore("iii-state:orphans", name) - stood
        assert HOUR_MS - 60_000 < left <= HOUR_MS + 1000
    assert target.zscore("iii-state:orphans", SUBSCRIPTIONS[0].id) is None


async def test_what_writes_were_made_within_goes_along_and_what_is_no_event_is_told() -> None:
    await fill(on_one(1))
    client: Any = redis.Redis.from_url(on_one(1).redis_url)
    queue = SUBSCRIPTIONS[0].id
    first, second = sorted(client.scan_iter(f"iii-state:wait:{queue}:*"))[:2]
    client.lset(first, 0, "+write-1")
    client.lset(second, 6, "+write-2")
    made_within = {b"+write-1": b"[1]", b"+write-2": b"[2]"}
    client.hset(f"iii-state:lineages:{queue}", mapping=made_within)
    client.xadd(f"iii-state:q:{queue}", {"no": "event"})
    client.set("iii-state:later:damaged:1795792618717", "in the way")
    done = await moved(on_one(1), on_one(2))
    assert (done.skipped, done.aside) == (1, 1)
    target: Any = redis.Redis.from_url(on_one(2).redis_url)
    assert target.hgetall(f"iii-state:lineages:{queue}") == made_within
    assert 0 < target.ttl(f"iii-state:lineages:{queue}") <= 86_400
    for name in client.scan_iter("iii-state:wait:*"):
        assert target.lrange(name, 0, -1) == client.lrange(name, 0, -1)
    assert target.hgetall(f"iii-state:busy:{queue}").keys() == client.hgetall(f"iii-state:busy:{queue}").keys() | {b"fence"}


async def test_it_is_refused_while_an_engine_lives_and_where_there_is_a_store_already() -> None:
    await fill(on_one(1))
    async with adapter_of(on_one(1)):
        with pytest.raises(TransferError, match=r"runs on the Redis at .*: stop all engines"):
            await moved(on_one(1), on_one(2))
    assert shared_server().client.info("keyspace").keys() == {"db1"}
    async with adapter_of(on_one(2)):
        pass
    with pytest.raises(TransferError, match="holds a store already"):
        await moved(on_one(1), on_one(2))
    with pytest.raises(TransferError, match="holds a store already"):
        await moved(on_one(1), on_one(1))
    with pytest.raises(TransferError, match="holds nothing that could be moved"):
        await moved(on_one(3), on_one(4))
    other = redis.Redis.from_url(on_one(5).redis_url)
    other.hset("state:scope-3", "k", "1")
    with pytest.raises(TransferError, match="has values in 1 of the scopes already, as in 'scope-3': nothing was moved"):
        await moved(on_one(1), on_one(5))
    assert other.keys() == [b"state:scope-3"]


async def run(*arguments: str, killed_after: int | None = None) -> str:
    """Run the command; what it printed. With `killed_after` it dies of SIGKILL when so much has been moved."""
    command = ["-m", "iii_state"] if killed_after is None else ["-m", "tests.transfer.killed", str(killed_after)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == (0 if killed_after is None else -signal.SIGKILL), err.decode()
    return out.decode()


@pytest.mark.parametrize("killed_after", [20, 75, 150])
@pytest.mark.parametrize("into", ["one", slow("cluster")])
async def test_a_move_that_is_killed_goes_on_and_no_engine_starts_before(nodes: Nodes, into: str, killed_after: int) -> None:
    source, target = on_one(1), on_one(2) if into == "one" else on_cluster(8)
    await fill(source)
    urls = ("--from", source.redis_url, "--to", target.redis_url)
    more = ("--partitions", "8") if into == "cluster" else ()
    await run("move", *urls, *more, killed_after=killed_after)
    with pytest.raises((StoreError, ConfigError), match="is being moved to Redis at"):
        async with adapter_of(target):
            pass
    told = json.loads(await run("move", *urls, "--json"))
    assert told["resumed"]
    assert told["events"] > 100
    assert_same(await held_in(target), await held_in(source))


async def test_a_move_begins_anew_where_an_engine_has_run_meanwhile() -> None:
    source, target = on_one(1), on_one(2)
    await fill(source)
    await run("move", "--from", source.redis_url, "--to", target.redis_url, killed_after=150)
    async with adapter_of(source) as adapter:
        await answer_of(adapter.values.set("scope-1", "k", stored("new")))
        await answer_of(adapter.values.delete("scope-3", "k"))
        for key in [f"key {number}" for number in range(3)]:
            await answer_of(adapter.values.delete("scope-3", key))
        await answer_of(adapter.queues.subscribe(SUBSCRIPTIONS[1]))
        await answer_of(adapter.queues.unsubscribe(SUBSCRIPTIONS[1].id))
    told = json.loads(await run("move", "--from", source.redis_url, "--to", target.redis_url, "--json"))
    assert not told["resumed"]
    assert told["subscriptions"] == len(SUBSCRIPTIONS) - 1
    found, wanted = await held_in(target), await held_in(source)
    assert_same(found, wanted)
    assert "scope-3" not in found.values


async def test_another_store_is_not_moved_into_a_move_that_was_cut_off() -> None:
    await fill(on_one(1))
    await fill(on_one(3))
    await run("move", "--from", on_one(1).redis_url, "--to", on_one(2).redis_url, killed_after=20)
    with pytest.raises(TransferError, match="another store is being moved"):
        await moved(on_one(3), on_one(2))
    with pytest.raises(StateError, match="not been moved there as a whole"):
        await moved(on_one(2), on_one(4))


async def test_what_is_written_meanwhile_is_noticed() -> None:
    await fill(on_one(1))
    client = redis.Redis.from_url(on_one(2).redis_url)

    def meddle(done: Moved) -> None:
        if done.events:
            client.hdel("state:scope-1", "k")

    with pytest.raises(TransferError, match=r"does not hold what the Redis at .* does .*values: "):
        await moved(on_one(1), on_one(2), meddle)


async def test_the_command_tells_what_there_is(nodes: Nodes) -> None:
    await fill(on_one(1))
    urls = ("--from", on_one(1).redis_url, "--to", nodes.url, "--partitions", "4")
    told = json.loads(await run("move", *urls, "--dry-run", "--json"))
    assert (told["scopes"], told["dead_letters"]) == (len(SCOPES), 5)
    assert all(master.client.dbsize() == 0 for master in nodes.masters())
    out = await run("move", *urls)
    assert "moved in" in out
    assert ["values", f"{told['values']:,}"] in [line.split() for line in out.splitlines()]
