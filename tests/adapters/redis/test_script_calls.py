"""Every call of every script has the keys that its header names: heard from Redis itself, while engines do all they can do."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cached_property, partial
from typing import Any

from iii_state import values
from iii_state.adapters.redis import RedisAdapter
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.inspections import recount_entries
from iii_state.adapters.redis.scripts.loader import names, script
from iii_state.config import RedisSettings
from iii_state.events import Delivery, Failure, QueueLimits, Subscription
from iii_state.history import LogRule, LogRules
from iii_state.observe.doctor.redis import examine
from iii_state.values.transactions import Step
from tests.support.redis.adapters import INCREMENT
from tests.support.redis.least_rights import least_rights
from tests.support.redis.script_headers import ALIASES, header
from tests.support.redis.server import RedisServer
from tests.support.waiting import answer_of, until

ALL = Subscription("all")
OTHER = Subscription("other", scope="s")
FAILURE = Failure("FAILED", "it failed")
KEYS = Keys()
COMMANDS = {script(name).sha1: name for name in names()}
_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


LOGS = ("history", "revisions")


def _names_of_keys() -> tuple[dict[bytes, str], dict[bytes, str]]:
    """Names that are fixed, and what the others begin with."""
    spelled = {made: name for name, made in ALIASES.items()}
    fixed, beginnings = {KEYS.marks(0): "marks"}, dict[bytes, str]()
    for made, value in vars(Keys).items():
        name = spelled.get(made, made)
        if isinstance(value, cached_property):
            fixed[getattr(KEYS, made)] = name
        elif made in (
            "values",
            "engine",
            "hosts",
            "session",
            "subscription",
            "stream",
            "busy",
            "lineages",
            "dead",
            "deadlines_of",
            *LOGS,
        ):
            beginnings[getattr(KEYS, made)(b"")] = name
    return fixed, {**beginnings, KEYS.wait(b"", b"")[:-1]: "wait", KEYS.shadow(b"", b"")[:-2]: "shadow"}


FIXED, BEGINNINGS = _names_of_keys()


def name_of(key: bytes) -> str:
    """What scripts call a key."""
    found = [name for beginning, name in sorted(BEGINNINGS.items(), key=lambda item: -len(item[0])) if key.startswith(beginning)]
    return FIXED.get(key) or (found[0] if found else "?")


class Calls:
    """The calls of scripts that a server has heard of: command -> the names of the keys, as they were."""

    def __init__(self) -> None:
        self.heard: dict[str, set[str]] = {}

    def hear(self, line: bytes) -> None:
        """A line of MONITOR."""
        words = [word.replace(b'\\"', b'"').replace(b"\\\\", b"\\") for word in _WORD.findall(line)]
        if len(words) > 2 and words[0].upper() == b"EVALSHA" and (command := COMMANDS.get(words[1])):
            keys = words[3 : 3 + int(words[2])]
            self.heard.setdefault(command, set()).add("".join(f" {name_of(key)}" for key in keys))

    def __contains__(self, commands: str) -> bool:
        return set(commands.split()) <= set(self.heard)


@asynccontextmanager
async def listening(server: RedisServer) -> AsyncIterator[Calls]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**24)
    writer.write(b"MONITOR\r\n")
    assert await reader.readline() == b"+OK\r\n"
    calls = Calls()

    async def listen() -> None:
        while line := await reader.readline():
            calls.hear(line)

    task = asyncio.create_task(listen())
    try:
        yield calls
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()


@asynccontextmanager
async def engine_at(url: str, limits: QueueLimits | None = None, **settings: Any) -> AsyncIterator[RedisAdapter]:
    history = LogRules([LogRule(scope="s")])
    adapter = RedisAdapter(RedisSettings(redis_url=url, heartbeat_ttl_ms=1000, **settings), limits=limits, history=history)
    await adapter.start(lambda subscription_id: None)
    try:
        yield adapter
    finally:
        await adapter.stop()


async def taken(adapter: RedisAdapter, subscription: Subscription = ALL) -> Delivery:
    async with asyncio.timeout(20):
        while not (deliveries := await answer_of(adapter.queues.take(subscription.id, 1))):
            await asyncio.sleep(0.01)
    delivery: Delivery = deliveries[0]
    return delivery


async def heard(calls: Calls, *commands: str, meanwhile: Callable[[], object] = lambda: None) -> None:
    def is_heard() -> bool:
        meanwhile()
        return " ".join(commands) in calls

    await until(is_heard)


async def test_every_call_has_the_keys_that_the_header_of_its_script_names(own_server: RedisServer) -> None:
    async with listening(own_server) as calls:
        await use_everything(own_server, own_server.url, calls)
    for command, found in calls.heard.items():
        for keys in found:
            assert header(command).keys.fullmatch(keys), (command, keys)


async def test_no_call_touches_a_key_that_it_does_not_name(own_server: RedisServer) -> None:
    """A Cluster relies on it, and within a slot it would not notice. Every call runs as a user who may touch those keys only."""
    async with listening(own_server) as calls, least_rights(own_server.port) as way:
        try:
            await use_everything(own_server, way.url, calls)
        finally:
            assert {COMMANDS[digest]: refused for digest, refused in way.refused.items()} == {}
    assert {COMMANDS[digest] for digest in way.called} >= set(names())


async def use_everything(server: RedisServer, url: str, calls: Calls) -> None:
    """Have engines at a URL call every script, and do to their data what makes them."""
    client = server.client
    await use_plain_values(url)
    async with engine_at(url, foreign_writes=True) as adapter:
        await answer_of(adapter.queues.subscribe(ALL))
        await use_values(adapter)
        client.delete(KEYS.clock.decode())  # scripts look at its copy then
        await use_values(adapter)
        await heard(calls, "deadlines/claim", "deadlines/expire", "deadlines/reschedule", "fleet/swap_setting")
        client.hset("state:s", "foreign", "1")
        await heard(calls, "foreign/compare", "foreign/capture")
        await answer_of(adapter.queues.ack(await answer_of(adapter.queues.take(ALL.id, 100))))
        await use_queues(adapter, url)
        await use_runs(adapter)
        await answer_of(adapter.succession.enter("worker", 1000))
        client.hset(KEYS.engines.decode(), "dead", "100 1")
        client.sadd(KEYS.hosts(b"dead").decode(), ALL.id)
        await heard(calls, "fleet/fence", "fleet/takeover", "fleet/heartbeat", "queues/find_ready")
    limits = QueueLimits(max_queue_length=2, on_full="drop_oldest", dead_letter_retention_ms=10)
    async with engine_at(url, limits) as adapter:
        await use_subscriptions(adapter)
        client.hset("state:emptied", "k", "1")
        client.sadd(KEYS.scopes.decode(), "emptied", "never")
        await answer_of(adapter.values.scopes())
        await answer_of(adapter.queues.subscribe(ALL))
        await answer_of(adapter.values.set("s", "k", b"0"))
        await answer_of(adapter.queues.dead_letter(await taken(adapter), FAILURE))
        await heard(calls, "queues/drop_old_dead_letters")
        await answer_of(adapter.values.set("s", "k", b"1"))
        await answer_of(adapter.values.set("s", "k", b"2"))
        await heard(calls, "repair/check_fleet", "repair/check_queues", "repair/check_waiting", "repair/requeue_entries")
        await heard(calls, "repair/resume_lanes")
        client.delete(KEYS.busy(ALL.id.encode()).decode())
        await heard(calls, "repair/recount_lanes", "repair/check_pending")
        client.xadd(KEYS.stream(ALL.id.encode()).decode(), {"no": "event"})
        await heard(calls, "repair/drop_entries")
        client.delete(KEYS.routes.decode())
        client.delete(KEYS.later.decode())
        client.set(KEYS.later.decode(), "in the way")
        await heard(calls, "repair/move_aside", "fleet/restore_routes")
    assert sorted(set(names()) - set(calls.heard)) == []


async def use_plain_values(url: str) -> None:
    """Without events, deadlines and change logs, in one turn of the event loop."""
    adapter = RedisAdapter(RedisSettings(redis_url=url))
    await adapter.start(lambda subscription_id: None)
    try:
        for make in (
            partial(adapter.values.set, value=b"1"),
            partial(adapter.values.update, plan=INCREMENT, limit=values.MAX_VALUE_BYTES),
            adapter.values.delete,
        ):
            made = [make(scope, key="k") for scope in ("plain", "too")]
            for change in made:
                await answer_of(change)
    finally:
        await adapter.stop()


async def use_values(adapter: RedisAdapter) -> None:
    await answer_of(adapter.values.set("s", "k", b"1", ttl_ms=600_000))
    await answer_of(adapter.values.set("s", "soon", b"1", ttl_ms=30))
    await answer_of(adapter.values.touch("s", "k", 700_000))
    await answer_of(adapter.values.update("s", "k", INCREMENT, values.MAX_VALUE_BYTES))
    await answer_of(adapter.values.set("without deadlines", "k", b"1"))
    await answer_of(adapter.values.get("s", "k"))
    await answer_of(adapter.values.get_many("s", ["k", "l"]))
    await answer_of(adapter.values.transact("s", [Step("k", b"1"), Step("l", plan=INCREMENT), Step("l")], values.MAX_VALUE_BYTES))
    await answer_of(adapter.values.entries("s"))
    await answer_of(adapter.values.entries("without deadlines"))
    await answer_of(adapter.values.now())
    await answer_of(adapter.values.keys("s"))
    await answer_of(adapter.values.scopes())
    await answer_of(adapter.values.delete("without deadlines", "k"))


async def use_queues(adapter: RedisAdapter, url: str) -> None:
    await answer_of(adapter.values.set("s", "k", b"3"))
    await answer_of(adapter.queues.note_loop(ALL.id))
    await answer_of(adapter.queues.retry(await taken(adapter), 1, FAILURE))
    await answer_of(adapter.queues.release([await taken(adapter)]))
    for use in (adapter.admin.dead_retry, adapter.admin.dead_drop):
        await answer_of(adapter.queues.dead_letter(await taken(adapter), FAILURE))
        (dead_letter,) = await answer_of(adapter.admin.dead_letters())
        await answer_of(use(dead_letter.id))
    await adapter.admin.pause(ALL)
    await answer_of(adapter.values.set("s", "k", b"4"))
    await answer_of(adapter.values.set("s", "k", b"5"))
    await examine(RedisSettings(redis_url=url), lambda what: None)
    await answer_of(adapter._shared.connection.run("repair/recount_entries", recount_entries(KEYS, ALL.id.encode())))
    assert await adapter.admin.purge(ALL) > 0
    await adapter.admin.resume(ALL)


async def use_runs(adapter: RedisAdapter) -> None:
    while left := await answer_of(adapter.queues.take(ALL.id, 100)):
        await answer_of(adapter.queues.ack(left))
    for number in range(3):
        await answer_of(adapter.values.set("s", "hot", b"%d" % number))
    deliveries = [await taken(adapter)]
    while deliveries:
        deliveries = await answer_of(adapter.queues.ack(deliveries, 1, ahead=True))


async def use_subscriptions(adapter: RedisAdapter) -> None:
    await answer_of(adapter.queues.subscribe(OTHER))
    for number in range(4):
        await answer_of(adapter.values.set("s", "full", b"%d" % number))
    await answer_of(adapter.queues.abandon(OTHER.id))
    await answer_of(adapter.queues.subscribe(OTHER))
    await answer_of(adapter.queues.unsubscribe(OTHER.id))
