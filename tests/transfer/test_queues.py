"""Queues go with an export: from one kind of store into another, in order, with their attempts, and never twice."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from iii_state.adapters.base import Adapter
from iii_state.adapters.kv import KvAdapter
from iii_state.adapters.redis.opening import open_redis
from iii_state.cli import main
from iii_state.config import RedisSettings
from iii_state.errors import StoreError, TransferError
from iii_state.events import Failure, Subscription
from iii_state.lineages import Lineage, call_members, inside
from iii_state.transfer.importing import ExportFile, check
from iii_state.transfer.queue_stores import queue_target
from iii_state.transfer.queues.importing import look, put
from iii_state.transfer.stores import StorePlace
from tests.support.redis.nodes import shared_nodes
from tests.support.redis.server import shared_server
from tests.support.stores import stored
from tests.support.waiting import answer_of, until
from tests.transfer.adapters import running, taken

KINDS = ["file", "redis", "cluster"]
FAILURE = Failure("FAILED", "it failed")
TRACED = Lineage(2, "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
SUBSCRIPTIONS = [
    Subscription("all", retention_ms="forever", metadata=b'{"a":1}'),
    Subscription("one", scope="s1", retention_ms=3_600_000, concurrency=3, max_queue_length=1000),
    Subscription("keys", scope_prefix="s", retention_ms="forever", payload="keys"),
    Subscription("idle", scope="nothing happens here", retention_ms="forever"),
    Subscription("each", delivery="broadcast", retention_ms="forever"),
]
ALL, ONE = SUBSCRIPTIONS[:2]
MOVED = SUBSCRIPTIONS[:4]
SCOPES = ["s1", "s2", "", "with: colon", "ü{}*?[]", "long" * 40]


def place_of(kind: str, folder: Path, number: int) -> StorePlace:
    """An empty store."""
    if kind == "file":
        return StorePlace(directory=folder / f"store-{number}")
    if kind == "redis":
        return StorePlace(redis=RedisSettings(redis_url=f"{shared_server().url}/{number}"))
    return StorePlace(redis=RedisSettings(redis_url=shared_nodes().url, prefix=f"p{number}", partitions=4))


@pytest.fixture(autouse=True)
def empty() -> None:
    shared_server().client.flushall()


def options_of(place: StorePlace) -> list[str]:
    if place.redis is None:
        return ["--file-path", str(place.directory)]
    return ["--redis-url", str(place.redis.redis_url), "--redis-prefix", place.redis.prefix]


async def cli(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments))


async def done(*arguments: str) -> Any:
    result = await cli(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def refused(*arguments: str) -> str:
    result = await cli(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, SystemExit), result.exception
    return " ".join(result.output.split())


@asynccontextmanager
async def adapter_of(place: StorePlace) -> AsyncIterator[Adapter]:
    adapter: Adapter = KvAdapter(place.directory) if place.redis is None else await open_redis(place.redis)
    async with running(adapter):
        yield adapter


async def fill(place: StorePlace) -> None:
    """Events that wait, behind each other and behind planned attempts and what was being handled, and dead letters."""
    async with adapter_of(place) as adapter:
        for subscription in SUBSCRIPTIONS:
            await answer_of(adapter.queues.subscribe(subscription))
        for number in range(4):
            for scope in SCOPES:
                value = stored({"n": number, "digits": 2**70})
                await answer_of(inside(call_members(TRACED), adapter.values.set, scope, "k", value))
                await answer_of(adapter.values.set(scope, f"key {number % 2}", stored(None if number == 2 else number)))
        await answer_of(adapter.values.delete("s2", "k"))
        deliveries = await taken(adapter, ALL, 8)
        for delivery in deliveries[:3]:
            await answer_of(adapter.queues.dead_letter(delivery, FAILURE))
        for number, delivery in enumerate(deliveries[3:6]):
            await answer_of(adapter.queues.retry(delivery, 500 + number, FAILURE, crashed=number == 2))
        await answer_of(adapter.admin.pause(ONE))


@dataclass
class Held:
    """What an engine finds in the queues of a store."""

    stats: dict[str, Any] = field(default_factory=dict)
    dead: list[Any] = field(default_factory=list)
    handled: dict[str, dict[tuple[str, str], list[Any]]] = field(default_factory=dict)


async def held_in(place: StorePlace) -> Held:
    """All of it; the queues are empty afterwards."""
    held = Held()
    async with adapter_of(place) as adapter:
        for each in await answer_of(adapter.admin.stats()):
            if each.subscription.delivery == "once":
                told = (each.subscription, each.waiting + each.pending, each.dead, each.dropped, each.paused_at_ms is not None)
                held.stats[each.subscription.function_id] = told
        held.dead = sorted(
            (letter.function_id, letter.subscription_id, *place_and_values(letter), letter.attempts, letter.error)
            for letter in await answer_of(adapter.admin.dead_letters())
        )
        await answer_of(adapter.admin.resume(ONE))
        for subscription in MOVED:
            await answer_of(adapter.queues.subscribe(subscription))
            held.handled[subscription.function_id] = await handled(adapter, subscription)
    return held


def place_and_values(letter: Any) -> tuple[Any, ...]:
    event = letter.event
    return event.write_id, event.scope, event.key, event.event_type, event.old or b"", event.new or b""


async def handled(adapter: Adapter, subscription: Subscription) -> dict[tuple[str, str], list[Any]]:
    """What is handed out, by lane and in order."""
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)

    async def is_empty() -> bool:
        deliveries = await answer_of(adapter.queues.take(subscription.id, 100))
        for each in deliveries:
            event = each.event
            what = (each.event_id, event.event_type, event.old, event.new, each.attempt, each.crashes)
            found[event.scope, event.key].append(what)
        if deliveries:
            await answer_of(adapter.queues.ack(deliveries))
        stats = await answer_of(adapter.admin.stats())
        return not any(row.waiting or row.pending for row in stats if row.subscription.id == subscription.id)

    await until(is_empty)
    return dict(found)


PAIRS = [("file", "file"), ("file", "redis"), ("file", "cluster"), ("redis", "file"), ("redis", "redis"), ("cluster", "file")]


@pytest.mark.parametrize(("origin", "to"), PAIRS)
async def test_queues_go_with_an_export(origin: str, to: str, tmp_path: Path) -> None:
    first, second, file = place_of(origin, tmp_path, 5), place_of(to, tmp_path, 6), str(tmp_path / "all.jsonl.gz")
    if "cluster" in (origin, to):
        shared_nodes().empty()
    if to == "cluster":
        async with adapter_of(second):  # decides how many partitions there are
            pass
    await fill(first)
    told = await done("export", file, "--queues", *options_of(first))
    counts = {name: told[name] for name in ("queues", "events", "dead_letters")}
    assert counts == {"queues": 4, "events": told["events"], "dead_letters": 3}
    assert told.get("broadcast", 0) == (origin == "file"), "in Redis they ended with their engine"
    would = await done("import", file, "--queues", "--dry-run", *options_of(second))
    assert {name: would[name] for name in counts} == counts
    imported = await done("import", file, "--queues", *options_of(second))
    assert {name: imported[name] for name in counts} == counts
    assert f"holds {counts['events']} events" not in await refused("import", file, "--queues", *options_of(second))

    wanted, found = await held_in(first), await held_in(second)
    assert found.stats == wanted.stats
    assert found.stats["one"][4]
    assert found.handled == wanted.handled
    assert sum(len(lane) for lanes in found.handled.values() for lane in lanes.values()) == counts["events"]
    assert {each[4:] for lane in found.handled["all"].values() for each in lane} == {(1, 0), (2, 0), (1, 1)}
    assert found.dead == wanted.dead


async def exported(tmp_path: Path) -> tuple[StorePlace, str, int]:
    """A file with queues, where they come from, and how many events there are."""
    place, file = place_of("file", tmp_path, 1), str(tmp_path / "all.jsonl")
    await fill(place)
    return place, file, (await done("export", file, "--queues", *options_of(place)))["events"]


async def test_without_the_option_they_are_left_out_and_that_is_told(tmp_path: Path) -> None:
    _, file, events = await exported(tmp_path)
    place = place_of("file", tmp_path, 2)
    result = await cli("import", file, *options_of(place))
    assert result.exit_code == 0
    assert f"its 4 queues with {events} events and 3 dead letters left out (--queues)" in result.output
    assert (await held_in(place)).dead == []


@pytest.mark.parametrize("kind", ["file", "redis"])
async def test_a_queue_that_holds_something_is_a_conflict(kind: str, tmp_path: Path) -> None:
    _, file, events = await exported(tmp_path)
    place = place_of(kind, tmp_path, 7)
    mine = msgspec.structs.replace(ALL, concurrency=9)
    async with adapter_of(place) as adapter:
        await answer_of(adapter.queues.subscribe(mine))
        await answer_of(adapter.values.set("mine", "k", stored(1)))
    words = await refused("import", file, "--queues", *options_of(place))
    assert "the queue of all in " in words
    assert "holds 1 events and dead letters already: give --on-conflict skip" in words
    async with adapter_of(place) as adapter:
        assert await answer_of(adapter.values.scopes()) == ["mine"], "nothing was imported"
    told = await done("import", file, "--queues", "--on-conflict", "skip", *options_of(place))
    assert (told["queues"], told["queues_skipped"], told["dead_letters"]) == (3, 1, 0)
    told = await done("import", file, "--queues", "--on-conflict", "overwrite", *options_of(place))
    assert (told["queues"], told["events"], told["dead_letters"]) == (4, events, 3)
    held = await held_in(place)
    assert held.stats["all"][0] == mine, "the settings that are there stay"
    assert ("mine", "k") not in held.handled["all"]


async def test_what_cannot_be_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    place, file, _ = await exported(tmp_path)
    there = options_of(place)
    more = str(tmp_path / "more.jsonl")
    assert "stop all engines of the fleet, and give --redis-url URL or --file-path DIR" in await refused("export", more, "--queues")
    assert "leave out --scope and --prefix" in await refused("export", more, "--queues", "--scope", "s1", *there)
    assert "save it to a file" in await refused("import", "-", "--queues", *there)
    assert "give one of them" in await refused("import", file, "--queues", "--events", *there)
    await done("export", more, *there)
    assert "holds no queues: leave out --queues, or export with it" in await refused("import", more, "--queues", *there)
    redis_place = place_of("redis", tmp_path, 5)
    async with adapter_of(redis_place):
        assert "stop all engines of the fleet first" in await refused("import", file, "--queues", *options_of(redis_place))
        assert "stop all engines of the fleet first" in await refused("export", f"{more}2", "--queues", *options_of(redis_place))


async def test_a_file_whose_queues_were_changed_is_refused(tmp_path: Path) -> None:
    _, file, _ = await exported(tmp_path)
    text = await asyncio.to_thread(Path(file).read_bytes)
    lines = text.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith(b'{"event":'))
    before, line, after = lines[:at], lines[at], lines[at + 1 :]
    for between in ([], [line, line], [line[:-20] + b"\n"], [line.replace(b"write_id", b"write")]):
        await asyncio.to_thread(Path(file).write_bytes, b"".join((*before, *between, *after)))
        with pytest.raises(TransferError, match=r"line \d+: .*; nothing was imported"):
            check(ExportFile(file), lambda imported: None)


@pytest.mark.parametrize("kind", ["file", "redis", "cluster"])
async def test_an_import_that_was_cut_off_goes_on(kind: str, tmp_path: Path) -> None:
    """It stops at each of some places; no engine starts on half a Redis, and in the end nothing is there twice."""
    first, file, events = await exported(tmp_path)
    place = place_of(kind, tmp_path, 8)
    if kind == "cluster":
        shared_nodes().empty()
    source = ExportFile(file)
    check(source, lambda imported: None)
    assert source.end is not None
    items = list(source.queue_items())

    class Cut(Exception):
        pass

    def cut_at(count: int) -> Any:
        def cut() -> Any:
            yield from items[:count]
            raise Cut

        return cut()

    async with adapter_of(place):
        pass
    for count in (2, len(items) // 2, len(items) - 1):
        async with queue_target(place, is_dry=False) as target:
            plan = await look(items, target, source.end.sha256, "error")
            with pytest.raises(Cut):
                await put(cut_at(count), target, source.end.sha256, plan)
        if kind != "file":
            with pytest.raises(StoreError, match="run that command again, to its end"):
                async with adapter_of(place):
                    pass
    told = await done("import", file, "--queues", *options_of(place))
    assert told["queues"] + told["queues_resumed"] == 4
    wanted, found = await held_in(first), await held_in(place)
    assert found.handled == wanted.handled
    assert found.dead == wanted.dead
    assert sum(len(lane) for lanes in found.handled.values() for lane in lanes.values()) == events
