"""`iii-state triggers` and `iii-state dead`, through an engine and straight against Redis: the same rows either way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from iii_state import Engine, StateModule
from iii_state.cli import main
from iii_state.host import engine_name
from tests.support.engines.processes import free_port
from tests.support.redis.server import shared_server


class Running:
    """An engine in this process, on a Redis of its own prefix, with a handler that fails for the value "bad"."""

    def __init__(self, engine: Engine, port: int, prefix: str) -> None:
        self.engine = engine
        self.prefix = prefix
        self.mended = False
        self.sources = (
            ("--url", f"ws://127.0.0.1:{port}"),
            ("--redis-url", shared_server().url, "--prefix", prefix),
        )

    def handle(self, event: dict[str, object]) -> None:
        if event["new_value"] == "bad" and not self.mended:
            raise RuntimeError("cannot take it")

    async def ask(self, source: int, *arguments: str, text: str | None = None) -> Result:
        command = [*arguments, *self.sources[source]]
        return await asyncio.to_thread(CliRunner().invoke, main, command, input=text)

    async def set(self, key: str, value: object, **more: object) -> None:
        payload = {"scope": "orders", "key": key, "value": value, **more}
        await self.engine.trigger({"function_id": "state::set", "payload": payload})

    async def waiting_dead(self, count: int) -> None:
        async def listed() -> int:
            answer = await self.engine.trigger({"function_id": "iii-state::dead_list", "payload": {}})
            return int(answer["total"])

        async with asyncio.timeout(20):
            while await listed() != count:
                await asyncio.sleep(0.02)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    prefix, port = f"operate-{free_port()}", free_port()
    shared_server().client.flushdb()
    async with Engine() as engine:
        adapter = {"name": "redis", "config": {"redis_url": shared_server().url, "prefix": prefix}}
        await engine.add_module(StateModule({"adapter": adapter, "dispatch": {"max_attempts": 2, "backoff_ms": 10}}))
        await engine.serve("127.0.0.1", port)
        running = Running(engine, port, prefix)
        engine.register_function("orders::changed", running.handle)
        config = {"scope": "orders"}
        await engine.register_trigger({"type": "state", "function_id": "orders::changed", "config": config})
        yield running


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_triggers_shows_who_wants_what_and_what_waits(running: Running, source: int) -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    called = asyncio.Event()

    async def stuck(event: object) -> None:
        called.set()
        await never

    running.engine.register_function("orders::stuck", stuck)
    config = {"scope": "orders", "key": "o1", "delivery": "broadcast"}
    await running.engine.register_trigger({"type": "state", "function_id": "orders::stuck", "config": config})
    await running.set("o1", 1)
    await running.set("o1", 2)
    await called.wait()
    result = await running.ask(source, "triggers", "--json")
    assert result.exit_code == 0, result.output
    rows = {row["function_id"]: row for row in json.loads(result.stdout)["triggers"]}
    row = rows["orders::stuck"]
    assert (row["scope"], row["key"], row["delivery"], row["hosts"]) == ("orders", "o1", "broadcast", [engine_name()])
    assert (row["pending"], row["waiting"], row["retrying"], row["dead"]) == (1, 1, 0, 0)
    assert row["oldest_at_ms"] is not None
    assert (rows["orders::changed"]["key"], rows["orders::changed"]["delivery"]) == (None, "once")
    table = await running.ask(source, "triggers")
    head, *lines = [line.split("\t") for line in table.stdout.splitlines()]
    shown = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    assert (shown["orders::changed"]["KEY"], shown["orders::stuck"]["OUT"]) == ("*", "1")
    never.set_result(None)


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_triggers_shows_what_a_trigger_asks_for(running: Running, source: int) -> None:
    config = {"scope_prefix": "or", "event_types": ["created"], "changed": ["email"], "coalesce": True, "batch": {"max": 5}}
    running.engine.register_function("orders::narrow", lambda event: None)
    await running.engine.register_trigger({"type": "state", "function_id": "orders::narrow", "config": config})
    result = await running.ask(source, "triggers", "--json")
    rows = {row["function_id"]: row for row in json.loads(result.stdout)["triggers"]}
    row = rows["orders::narrow"]
    assert (row["scope"], row["scope_prefix"], row["event_types"], row["changed"]) == (None, "or", ["state:created"], [["email"]])
    assert (row["coalesce"], row["batch"]) == (True, {"max": 5, "wait_ms": 0})
    assert not {"scope_prefix", "coalesce", "payload", "when"} & set(rows["orders::changed"])
    table = await running.ask(source, "triggers")
    [line] = [line.split("\t") for line in table.stdout.splitlines() if line.startswith("orders::narrow")]
    assert line[:3] == ['orders::narrow (created, changed [["email"]], batch {"max":5,"wait_ms":0}, coalesce)', "or*", "*"]


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_dead_letters_are_listed_shown_retried_and_dropped(running: Running, source: int) -> None:
    for key in ("a", "b", "c"):
        await running.set(key, "bad")
    await running.waiting_dead(3)
    listed = json.loads((await running.ask(source, "dead", "list", "--json", "--limit", "2")).stdout)
    assert (len(listed["dead"]), listed["total"]) == (2, 3)
    assert listed["dead"][0]["error"] == "invocation_failed: cannot take it"
    lines = (await running.ask(source, "dead", "list", "orders::changed")).stdout.splitlines()
    assert (len(lines), lines[0].split("\t")[:3]) == (4, ["ID", "FUNCTION", "SCOPE"])
    assert (await running.ask(source, "dead", "list", "no::such")).stdout.splitlines()[1:] == []
    shown = [json.loads(line) for line in (await running.ask(source, "dead", "show", "orders::changed")).stdout.splitlines()]
    assert {letter["event"]["key"] for letter in shown} == {"a", "b", "c"}
    assert {letter["attempts"] for letter in shown} == {2}

    ids = {letter["key"]: letter["id"] for letter in shown}
    dropped = await running.ask(source, "dead", "drop", "orders::changed", "--id", ids["a"])
    assert (dropped.exit_code, dropped.stdout) == (0, "1 dead letter dropped\n")
    await running.waiting_dead(2)
    running.mended = True
    retried = await running.ask(source, "dead", "retry", "orders::changed")
    assert retried.stdout == "2 dead letters delivered again\n"
    await running.waiting_dead(0)
    none = await running.ask(source, "dead", "retry", "no::such")
    assert (none.stdout, "iii-state dead list shows all" in none.stderr) == ("0 dead letters delivered again\n", True)
    gone = await running.ask(source, "dead", "retry", "orders::changed", "--id", ids["a"])
    assert (gone.exit_code, "there is no dead letter" in gone.stderr) == (1, True)


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_a_dead_letter_says_that_a_deadline_was_its_cause(running: Running, source: int) -> None:
    def fail(event: dict[str, object]) -> None:
        if event["event_type"] == "state:deleted":
            raise RuntimeError("cannot take it")

    running.engine.register_function("orders::changed", fail)
    await running.set("a", "good", ttl_ms=30)
    await running.waiting_dead(1)
    (listed,) = json.loads((await running.ask(source, "dead", "list", "--json")).stdout)["dead"]
    assert (listed["event_type"], listed["cause"]) == ("state:deleted", "expired")
    row = (await running.ask(source, "dead", "list")).stdout.splitlines()[1]
    assert row.split("\t")[4] == "deleted (expired)"
    shown = json.loads((await running.ask(source, "dead", "show", "orders::changed")).stdout)
    assert (shown["cause"], shown["event"]["cause"]) == ("expired", "expired")
    await running.set("b", "good")
    await running.engine.trigger({"function_id": "state::delete", "payload": {"scope": "orders", "key": "b"}})
    await running.waiting_dead(2)
    other = json.loads((await running.ask(source, "dead", "show", "orders::changed")).stdout.splitlines()[1])
    assert "cause" not in other
    assert "cause" not in other["event"]


async def test_a_retried_dead_letter_is_handled(running: Running) -> None:
    await running.set("a", "bad")
    await running.waiting_dead(1)
    handled = asyncio.Event()
    running.engine.register_function("orders::changed", lambda event: handled.set())
    await running.ask(1, "dead", "retry", "orders::changed")
    await asyncio.wait_for(handled.wait(), 10)


def test_a_redis_without_our_data_and_one_that_is_away_are_named() -> None:
    shared_server().client.flushdb()
    result = CliRunner().invoke(main, ["triggers", "--redis-url", shared_server().url, "--prefix", "nobodys"])
    assert (result.exit_code, "nothing of iii-state under the prefix nobodys" in result.stderr) == (1, True)
    port = free_port()
    result = CliRunner().invoke(main, ["dead", "list", "--redis-url", f"redis://127.0.0.1:{port}"])
    assert (result.exit_code, f"127.0.0.1:{port} refused" in result.stderr) == (1, True)


async def row_of(running: Running, source: int, function_id: str) -> dict[str, str]:
    table = await running.ask(source, "triggers")
    head, *lines = [line.split("\t") for line in table.stdout.splitlines()]
    return next(dict(zip(head, line, strict=True)) for line in lines if line[0] == function_id)


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_a_function_is_paused_purged_and_resumed(running: Running, source: int) -> None:
    handled: list[object] = []
    running.engine.register_function("orders::changed", lambda event: handled.append(event["new_value"]))
    paused = await running.ask(source, "triggers", "pause", "orders::changed")
    assert (paused.exit_code, paused.stdout) == (0, "1 subscription paused\n"), paused.output
    await running.set("a", 1)
    await running.set("b", 2)
    row = await row_of(running, source, "orders::changed")
    assert (row["WAITING"], row["STATE"].startswith("paused "), len(row["ID"])) == ("2", True, 8)
    purged = await running.ask(source, "triggers", "purge", "orders::changed", "--id", row["ID"][:4])
    assert (purged.exit_code, purged.stdout) == (0, "2 events dropped\n"), purged.output
    await running.set("c", 3)
    resumed = await running.ask(source, "triggers", "resume", "orders::changed", "--json")
    assert json.loads(resumed.stdout) == {"resumed": 1}
    async with asyncio.timeout(20):
        while not handled:
            await asyncio.sleep(0.02)
    assert handled == [3]
    row = await row_of(running, source, "orders::changed")
    assert (row["DROPPED"], row["STATE"]) == ("2", "-")


@pytest.mark.parametrize("source", [0, 1], ids=["engine", "redis"])
async def test_only_what_nobody_serves_is_removed(running: Running, source: int) -> None:
    refused = await running.ask(source, "triggers", "remove", "orders::changed")
    assert (refused.exit_code, "orders::changed is served by" in refused.stderr) == (1, True), refused.output
    async with Engine() as other:
        adapter = {"name": "redis", "config": {"redis_url": shared_server().url, "prefix": running.prefix}}
        await other.add_module(StateModule({"adapter": adapter}))
        other.register_function("orders::left", lambda event: None)
        config = {"scope": "orders", "retention_ms": "forever"}
        await other.register_trigger({"type": "state", "function_id": "orders::left", "config": config})
    await running.set("a", 1)
    assert (await row_of(running, source, "orders::left"))["HOSTS"] == "nobody"
    removed = await running.ask(source, "triggers", "remove", "orders::left")
    assert (removed.exit_code, removed.stdout) == (0, "1 subscription removed, with 1 event\n"), removed.output
    rows = json.loads((await running.ask(source, "triggers", "--json")).stdout)["triggers"]
    assert [row["function_id"] for row in rows] == ["orders::changed"]


async def test_what_is_not_there_or_not_clear_is_told(running: Running) -> None:
    for arguments, code, words in (
        (("pause", "no::such"), 1, "no::such has no subscription"),
        (("purge", "orders::changed", "--id", "zzzz"), 1, "has no subscription whose id begins with zzzz"),
    ):
        result = await running.ask(0, "triggers", *arguments)
        assert (result.exit_code, words in result.stderr) == (code, True), result.output
    misplaced = await running.ask(0, "triggers", "--json", "pause", "orders::changed")
    assert (misplaced.exit_code, "--json belongs behind the command `pause`" in misplaced.stderr) == (2, True)


async def test_one_subscription_of_several_is_chosen_by_its_id(running: Running) -> None:
    running.engine.register_function("orders::changed", lambda event: None)
    config = {"scope": "others"}
    await running.engine.register_trigger({"type": "state", "function_id": "orders::changed", "config": config})
    rows = {row["scope"]: row for row in json.loads((await running.ask(0, "triggers", "--json")).stdout)["triggers"]}
    ambiguous = await running.ask(0, "triggers", "pause", "orders::changed", "--id", "")
    assert (ambiguous.exit_code, "give more of it" in ambiguous.stderr) == (2, True), ambiguous.output
    assert (await running.ask(0, "triggers", "pause", "orders::changed", "--id", rows["others"]["id"])).exit_code == 0
    after = {row["scope"]: row for row in json.loads((await running.ask(0, "triggers", "--json")).stdout)["triggers"]}
    assert {scope for scope, row in after.items() if "paused_at_ms" in row} == {"others"}
    assert json.loads((await running.ask(1, "triggers", "pause", "orders::changed", "--json")).stdout)["paused"] == 2
