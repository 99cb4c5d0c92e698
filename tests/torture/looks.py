"""Looks at a system that should be at rest: through an engine, which every adapter answers alike, and into Redis itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis

from iii_state import FunctionError
from iii_state.errors import ConnectionLost
from tests.torture.plan import Plan
from tests.torture.subscriptions import SPECS
from tests.torture.writers import Caller
from tests.torture.writes import SCOPES, seen

PREFIX = "iii-state:"
FUNCTION_PREFIX = "torture::"


class Look(Protocol):
    """What can be seen of a system."""

    async def not_hosted(self) -> str:
        """Which engines or triggers are missing, or there although they should be gone; empty for none."""
        ...

    async def not_empty(self) -> str:
        """Which hosted queue still holds events, or which value its deadline; empty for none."""
        ...

    async def left(self) -> list[str]:
        """What should not be there when all queues have run dry."""
        ...

    async def values(self) -> list[tuple[str, str, Any]]:
        """Scope, key and value of everything."""
        ...


class EngineLook:
    """A look through engines: the same with every adapter. `callers` has one of each engine."""

    def __init__(self, plan: Plan, callers: Sequence[Caller]) -> None:
        self._plan = plan
        self._callers = callers
        self._caller = callers[0]

    async def _rows(self) -> list[dict[str, Any]] | str:
        """What each engine says of its subscriptions: an engine with a bridge speaks of its own."""
        rows: list[dict[str, Any]] = []
        try:
            for caller in self._callers:
                rows += (await caller.call("iii-state::triggers", {}))["triggers"]
        except (FunctionError, ConnectionLost) as error:
            return str(error)
        return [row for row in rows if row["function_id"].startswith(FUNCTION_PREFIX)]

    async def not_hosted(self) -> str:
        rows = await self._rows()
        if isinstance(rows, str):
            return rows
        hosted = {row["function_id"] for row in rows if row["hosts"]}
        if missing := [spec.name for spec in SPECS[self._plan.adapter] if spec.function_id not in hosted]:
            return f"{missing} are not hosted"
        for number, caller in enumerate(self._callers):
            try:
                listed = await caller.call("engine::registered-triggers::list", {})
            except (FunctionError, ConnectionLost) as error:
                return f"engine {number}: {error}"
            served = {row["function_id"] for row in listed["registered_triggers"] if row.get("served", True)}
            for spec in SPECS[self._plan.adapter]:
                if number in self._plan.workers[spec.role] and spec.function_id not in served:
                    return f"{spec.name} is not served at engine {number}"
        return ""

    async def not_empty(self) -> str:
        rows = await self._rows()
        if isinstance(rows, str):
            return rows
        for row in rows:
            is_hosted = row["hosts"] or row["delivery"] == "once"
            if is_hosted and (row["waiting"] or row["pending"] or row["retrying"]):
                return f"the queue of {row['function_id']} still holds events: {row}"
        return ""

    async def left(self) -> list[str]:
        rows = await self._rows()
        assert not isinstance(rows, str), rows
        return [f"{row['dropped']} events of {row['function_id']} have been dropped" for row in rows if row["dropped"]]

    async def values(self) -> list[tuple[str, str, Any]]:
        found = []
        for scope in SCOPES[self._plan.adapter]:
            for key in (await self._caller.call("state::list_keys", {"scope": scope}))["keys"]:
                value = await self._caller.call("state::get", {"scope": scope, "key": key})
                found.append((scope, key, seen(value)))
        return found

    async def dead(self) -> list[dict[str, Any]]:
        """The dead letters, with their events; one that several engines tell of more than once."""
        return [
            letter for caller in self._callers for letter in (await caller.call("iii-state::dead_show", {"limit": 1000}))["dead"]
        ]


class RedisLook:
    """A look into the Redis that engines share, at everything that is in it."""

    def __init__(self, plan: Plan, client: redis.Redis) -> None:
        self._plan = plan
        self._client = client

    async def not_hosted(self) -> str:
        return await asyncio.to_thread(self._not_hosted)

    async def not_empty(self) -> str:
        try:
            return await asyncio.to_thread(self._not_empty)
        except redis.ResponseError as error:  # a key of another type, which has not been put right yet
            return str(error)

    async def left(self) -> list[str]:
        return await asyncio.to_thread(self._left)

    async def values(self) -> list[tuple[str, str, Any]]:
        return await asyncio.to_thread(self._values)

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

    def _not_hosted(self) -> str:
        hosts, engines = list(self._hosts().values()), self._engines()
        if len(engines) != self._plan.engines + 1:
            return f"{len(engines)} engines are known, not {self._plan.engines + 1}: {sorted(engines)}"
        for spec in SPECS[self._plan.adapter]:
            wanted = len(set(self._plan.workers[spec.role]))
            at = [engine for function_id, hosted in hosts for engine in hosted if function_id == spec.function_id]
            if len(at) != wanted or not set(at) <= engines:
                return f"{spec.function_id} is hosted by {at}, not by {wanted} of {sorted(engines)}"
        return ""

    def _not_empty(self) -> str:
        broadcast = {spec.function_id for spec in SPECS[self._plan.adapter] if spec.is_broadcast}
        for queue, (function_id, engines) in self._hosts().items():
            held = cast("bytes | None", self._client.hget(f"{PREFIX}busy:{queue}", "entries"))
            if (engines or function_id not in broadcast) and held:
                return f"the queue of {function_id} ({queue}) still holds {held.decode()} events"
        return ""

    def _left(self) -> list[str]:
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
            found += [f"{name} of {function_id}" for name in self._keys(f"wait:{queue}:*") if ":damaged:" not in name]
            for consumer in self._client.xinfo_consumers(f"{PREFIX}q:{queue}", "engines"):
                if consumer["name"].decode() not in engines:
                    found.append(f"a consumer of {function_id} for the engine {consumer['name'].decode()}, which is gone")
        found += [f"an engine not taken over: {engine!r}" for engine in self._client.smembers(f"{PREFIX}fenced")]
        found += [f"{name} of an engine that is gone" for name in self._keys("hosts:*") if name.rpartition(":")[2] not in engines]
        found += [f"a planned attempt: {member!r}" for member in self._client.zrange(f"{PREFIX}later", 0, -1)]
        return found

    def _values(self) -> list[tuple[str, str, Any]]:
        return [
            (scope, cast(bytes, key).decode(), seen(json.loads(text)))
            for scope in SCOPES[self._plan.adapter]
            for key, text in self._client.hgetall(f"state:{scope}").items()
        ]
