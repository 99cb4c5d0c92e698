"""Writers, workers and foreign writers at engines whose versions change meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from iii_state.adapters.redis.keys import Keys
from iii_state.client.about import About
from iii_state.client.client import Client
from iii_state.errors import ConnectionLost, FunctionError
from tests.linearizability.load import CALL_SECONDS, MADE, PAUSE_SECONDS, REFUSED
from tests.support.engines.turning import TurningClient
from tests.support.redis.server import RedisServer
from tests.support.waiting import until
from tests.upgrade.versions import Seat
from tests.upgrade.worker import ASIDE, SCOPE, TRIGGERS, Journal, Worker

WRITERS = 4
KEYS = ("k0", "k1", "k2", "k3")
NEW_KINDS = {"transact": 15, "conditional": 15, "unmet": 10}
"""The kinds of writes that the versions before do not know, and how often they are made at an engine of this one."""
NEW_REFUSED = ("CONDITION_FAILED", "UNSUPPORTED")
"""Codes that say of them that they were not made."""

MET: dict[str, Any] = {"path": ["w"], "not_equals": "nobody"}
UNMET: dict[str, Any] = {"path": ["w"], "equals": "nobody"}
"""Conditions that always hold, and never. An engine of a version before passes over both."""

SHARE = 12
"""So many calls of each handler that watches everything have to come through each engine before the next change of versions."""


@dataclass
class Write:
    """One write: `outcome` is ok, refused or unknown; `old` is what it was told to have replaced."""

    mark: str
    kind: str
    key: str
    outcome: str = "unknown"
    old: Any = None
    version: str = ""


class Traffic:
    """Use with `async with`.

    Args:
        seats: engines at which there are writers and a worker each.
        redis: where a foreign writer is to write, or None for none.
        state: whose version the events are of, where that is not the worker's engine.
    """

    def __init__(self, seats: Sequence[Seat], redis: RedisServer | None = None, *, state: Seat | None = None) -> None:
        self.seats = seats
        self.writes: list[Write] = []
        self.foreign: list[Any] = []
        """What the foreign writer has written to its own key, in order."""
        self.journal = Journal()
        self.journal.free.set()
        self.unmet = 0
        """How many writes a condition has refused."""
        self.workers: list[Worker] = []
        self._redis = redis
        self._state = state
        self._stack = AsyncExitStack()
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Traffic:
        try:
            for seat in self.seats:
                told_by = self._state or seat
                worker = Worker(f"worker at {seat.name}", seat.url, lambda told_by=told_by: told_by.version, self.journal)
                self.workers.append(await self._stack.enter_async_context(worker))
            await self.ready()
            self._writing = [asyncio.create_task(self._write(number)) for number in range(WRITERS)]
            if self._redis is not None:
                self._writing.append(asyncio.create_task(self._write_as_a_stranger(self._redis)))
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped.set()
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._stack.aclose()

    async def ready(self) -> None:
        """Wait until all workers have their triggers."""
        for worker in self.workers:
            await until(worker.registered.is_set, f"{worker.name} has no triggers")

    async def a_while(self) -> None:
        """Wait until each engine has had its share of everything, since now."""
        await self.ready()
        before = self._shares()
        writes = len(self.writes)

        def has_share() -> bool:
            for task in self._writing:
                if task.done():
                    task.result()
            gained = self._shares() - before
            functions = ("upgrade::all", "upgrade::echo")
            enough = all(gained[worker.name, function_id] >= SHARE for worker in self.workers for function_id in functions)
            return enough and len(self.writes) - writes > 10 * SHARE

        await until(has_share, lambda: f"not every engine has its share: {self._shares() - before}, {len(self.writes)} writes")

    async def pile_up(self) -> None:
        """Have `upgrade::echo` wait, until `go_on`, and return once much waits for it that handlers have written meanwhile.

        Where all engines are of this version, some of that is in the form that the earlier one does not write.
        """
        self.journal.free.clear()
        before = self.journal.tries.total()
        await until(lambda: self.journal.tries.total() - before > 2 * SHARE, "handlers have not written")
        if self._redis is not None and all(seat.version == "new" for seat in self.seats) and hasattr(Keys, "lineages"):
            await until(self._has_lineages, "no entry says what its write was made within")

    def _has_lineages(self) -> bool:
        assert self._redis is not None
        redis = self._redis.client
        entries = [fields for name in redis.scan_iter("iii-state:q:*") for _, fields in redis.xrange(name)]
        return any(b"x" in fields for fields in entries) and any(redis.scan_iter("iii-state:lineages:*"))

    def go_on(self) -> None:
        """Let `upgrade::echo` go on."""
        self.journal.free.set()

    def _shares(self) -> Counter[tuple[str, str]]:
        return Counter((each.engine, each.function_id) for each in self.journal.handled)

    async def end(self) -> None:
        """Write no more, and wait until all is handled, and what has a deadline is gone."""
        self._stopped.set()
        await asyncio.gather(*self._writing)
        await self.ready()
        async with Client(self.seats[0].url, About("the end")) as client:

            async def is_over() -> bool:
                rows = json.loads(await client.call("iii-state::triggers", b"{}") or b"")["triggers"]
                ours = [row for row in rows if row["function_id"] in TRIGGERS]
                assert len(ours) == len(TRIGGERS), ours
                return not any(row["waiting"] or row["pending"] or row["retrying"] for row in ours)

            async def no_deadlines() -> bool:
                return not any(value.get("ttl") for value in (await self.values()).values() if value)

            async def ends_are_told() -> bool:
                """A value that is over is seen no more, and its event comes a moment later."""
                told = {each.event["key"]: each.event["new_value"] for each in self.journal.of("upgrade::all")}
                return all(told.get(key) == value for key, value in (await self.values()).items())

            await until(no_deadlines, "a value has outlived its deadline")
            with suppress(AssertionError):  # what is told never is for the verdict to say
                await until(ends_are_told)
            await until(is_over, "something waits")
            self.dead = json.loads(await client.call("iii-state::dead_list", b"{}") or b"")["dead"]

    async def values(self, scope: str = SCOPE, keys: Sequence[str] = KEYS) -> dict[str, Any]:
        """What is stored, as each engine says; all say the same."""
        found: list[dict[str, Any]] = []
        for seat in self.seats:
            async with Client(seat.url, About("a reader")) as client:
                answers = [await client.call("state::get", json.dumps({"scope": scope, "key": key}).encode()) for key in keys]
            found.append({key: None if text is None else json.loads(text) for key, text in zip(keys, answers, strict=True)})
        return found[0] if all(each == found[0] for each in found) else await self.values(scope, keys)

    # -- writers

    async def _write(self, number: int) -> None:
        caller = TurningClient([seat.url for seat in self.seats], number, f"writer {number}", CALL_SECONDS, PAUSE_SECONDS)
        chance = random.Random(number)
        try:
            for count in itertools.count():
                if self._stopped.is_set():
                    return
                await asyncio.sleep(chance.uniform(0, 0.03))
                await self._write_once(caller, chance, f"{number}.{count}")
        finally:
            await caller.close()

    async def _write_once(self, caller: TurningClient, chance: random.Random, mark: str) -> None:
        client = await caller.connect()
        kinds = {"set": 30, "update": 45, "delete": 12, "brief": 13} | (NEW_KINDS if self._is_new(client.url) else {})
        kind = chance.choices(list(kinds), list(kinds.values()))[0]
        write = Write(mark, kind, chance.choice(KEYS))
        place: dict[str, Any] = {"scope": SCOPE, "key": write.key}
        request: dict[str, Any]
        match kind:
            case "delete":
                function_id, request = "state::delete", place
            case "update":
                ops = [{"type": "append", "path": ["log"], "value": [mark]}, {"type": "set", "path": "w", "value": mark}]
                function_id, request = "state::update", {**place, "ops": ops}
            case "brief":
                value = {"w": mark, "log": [], "ttl": True}
                function_id, request = "state::set", {**place, "value": value, "ttl_ms": chance.randrange(20, 300)}
            case "transact":
                step = {"type": "set", "key": write.key, "value": {"w": mark, "log": []}, "if": [MET]}
                function_id, request = "state::transact", {"scope": SCOPE, "steps": [step]}
            case "conditional" | "unmet":
                condition = MET if kind == "conditional" else UNMET
                request = {**place, "value": {"w": mark, "log": []}, "if": [condition], "meta": True}
                function_id = "state::set"
            case _:
                function_id, request = "state::set", {**place, "value": {"w": mark, "log": []}}
        self.writes.append(write)
        try:
            answer = await client.call(function_id, json.dumps(request).encode())
        except FunctionError as error:
            write.outcome = "refused" if error.code in (*REFUSED, *NEW_REFUSED) else "made" if error.code in MADE else "unknown"
            if error.code == "CONDITION_FAILED":
                self.unmet += 1
            else:
                caller.leave()
        except ConnectionLost as error:
            write.outcome = "unknown" if error.sent else "refused"
            caller.leave()
        else:
            write.outcome = "ok"
            result: Any = None if answer is None else json.loads(answer)
            write.old = result if kind == "delete" else (result["results"][0] if kind == "transact" else result)["old_value"]

    def _is_new(self, url: str) -> bool:
        """Whether the engine there knows what the versions before do not, as far as can be said at this moment."""
        told_by = self._state or next(seat for seat in self.seats if seat.url == url)
        return told_by.version == "new"

    def new_kinds(self) -> set[str]:
        """Which of the kinds of writes that only this version knows have gone well; `unmet`, where a condition has refused one."""
        made = {write.kind for write in self.writes if write.outcome == "ok"} & NEW_KINDS.keys()
        return made - {"unmet"} | ({"unmet"} if self.unmet else set())

    async def _write_as_a_stranger(self, redis: RedisServer) -> None:
        """As `redis-cli` would: text of its own form, into a hash, without a word to any engine."""
        chance = random.Random("stranger")
        for count in itertools.count():
            if self._stopped.is_set():
                return
            await asyncio.sleep(chance.uniform(0.02, 0.08))
            value = {"nested": {"a": [1, 2.0, "é"]}, "w": f"stranger.{count}"}
            self.foreign.append(value)
            await asyncio.to_thread(redis.client.hset, f"state:{ASIDE}", "stranger", json.dumps(value, indent=1))
