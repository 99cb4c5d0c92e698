"""The end of a run: everything is healed, every key is written once more, every queue runs dry."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

import redis

from tests.torture.journal import Journal
from tests.torture.plan import ENGINES, NEW_WORKERS, OLD_WORKERS
from tests.torture.subscriptions import SPECS
from tests.torture.writers import Caller, write_once
from tests.torture.writes import COUNTERS, MAIN, MIXED, SIDE, Op

PREFIX = "iii-state:"


class NotSettled(Exception):
    """The system has not come to rest; the message says what is missing."""


async def until_settled(missing: Callable[[], str], within: float) -> None:
    """Wait until nothing is missing. Raises `NotSettled` if that takes too long."""
    give_up = time.monotonic() + within
    while what := await asyncio.to_thread(missing):
        if time.monotonic() > give_up:
            raise NotSettled(f"after {within:.0f} s: {what}")
        await asyncio.sleep(0.1)


class Look:
    """A look into Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def _keys(self, pattern: str) -> list[str]:
        return sorted(cast(bytes, name).decode() for name in self._client.scan_iter(PREFIX + pattern, count=1000))

    def _hosts(self) -> dict[str, tuple[str, set[str]]]:
        """Queue → its function, and the engines that host it."""
        found = {}
        for name in self._keys("sub:*"):
            fields = cast("dict[bytes, bytes]", self._client.hgetall(name))
            if b"settings" in fields:
                function_id = json.loads(fields[b"settings"])["function_id"]
                engines = {field[3:].decode() for field in fields if field.startswith(b"at:")}
                found[name.removeprefix(f"{PREFIX}sub:")] = (function_id, engines)
        return found

    def _engines(self) -> set[str]:
        return {cast(bytes, name).decode() for name in self._client.hkeys(f"{PREFIX}engines")}

    def not_hosted(self) -> str:
        """Which engines or triggers are missing, or there although they should be gone."""
        hosts, engines = list(self._hosts().values()), self._engines()
        if len(engines) != ENGINES + 1:
            return f"{len(engines)} engines are known, not {ENGINES + 1}: {sorted(engines)}"
        for spec in SPECS:
            wanted = len(OLD_WORKERS) if spec.is_old else len(NEW_WORKERS)
            at = [engine for function_id, hosted in hosts for engine in hosted if function_id == spec.function_id]
            if len(at) != wanted or not set(at) <= engines:
                return f"{spec.function_id} is hosted by {at}, not by {wanted} of {sorted(engines)}"
        return ""

    def not_empty(self) -> str:
        """Which hosted queues still hold events."""
        for queue, (function_id, engines) in self._hosts().items():
            held = cast("bytes | None", self._client.hget(f"{PREFIX}busy:{queue}", "entries"))
            if engines and held:
                return f"the queue of {function_id} ({queue}) still holds {held.decode()} events"
        return ""

    def left(self) -> list[str]:
        """What should not be there when all queues have run dry: traces of engines that are gone, and of events."""
        hosts, engines = self._hosts(), self._engines()
        hosted = {queue for queue, (_, at) in hosts.items() if at}
        found = []
        for queue in sorted(hosted):
            function_id = hosts[queue][0]
            if length := self._client.xlen(f"{PREFIX}q:{queue}"):
                found.append(f"{length} entries in the stream of {function_id}")
            fields = cast("dict[bytes, bytes]", self._client.hgetall(f"{PREFIX}busy:{queue}"))
            if lanes := {field: count for field, count in fields.items() if field != b"fence"}:
                found.append(f"lanes of {function_id}: {lanes}")
            found += [f"{name} of {function_id}" for name in self._keys(f"wait:{queue}:*")]
            for consumer in self._client.xinfo_consumers(f"{PREFIX}q:{queue}", "engines"):
                if consumer["name"].decode() not in engines:
                    found.append(f"a consumer of {function_id} for the engine {consumer['name'].decode()}, which is gone")
        found += [f"an engine not taken over: {engine!r}" for engine in self._client.smembers(f"{PREFIX}fenced")]
        found += [f"{name} of an engine that is gone" for name in self._keys("hosts:*") if name.rpartition(":")[2] not in engines]
        found += [f"a planned attempt: {member!r}" for member in self._client.zrange(f"{PREFIX}later", 0, -1)]
        found += [f"a dead letter in {name}" for name in self._keys("dead:*")]
        return found

    def values(self) -> list[tuple[str, str, Any]]:
        """Scope, key and value of everything."""
        return [
            (scope, cast(bytes, key).decode(), json.loads(text))
            for scope in (MAIN, SIDE)
            for key, text in self._client.hgetall(f"state:{scope}").items()
        ]


async def bring_to_rest(look: Look, callers: list[Caller], journal: Journal, within: float) -> None:
    """Wait for all triggers, write each key once more, wait for all queues. Raises `NotSettled`."""
    await until_settled(look.not_hosted, within)
    places = [(MAIN, key) for key in (*COUNTERS, *MIXED)] + [(SIDE, key) for key in ("s0", "s1", "s2")]
    for number, (scope, key) in enumerate(places):
        for again, caller in enumerate(callers):  # through each, which also waits for whatever it still had to send
            outcome = await write_once(Op(f"end.{number}.{again}", "increment", scope, key), caller, journal)
            if outcome != "ok":
                raise NotSettled(f"a write of {scope}/{key} in the end, through {caller}, has failed")
    await until_settled(look.not_empty, within)


async def note_what_there_is(look: Look, run: Journal) -> None:
    """Note the values, and what should not be there any more."""
    for what in await asyncio.to_thread(look.left):
        run.note(left=what)
    for scope, key, value in await asyncio.to_thread(look.values):
        run.note(scope=scope, key=key, final=value)
