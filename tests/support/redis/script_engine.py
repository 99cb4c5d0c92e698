"""The least of an engine that can call the mutation scripts: a session, sequence numbers, and what an adapter does with replies."""

from __future__ import annotations

import itertools
import json
from typing import Any
from uuid import uuid4

import msgspec
import redis

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import (
    KEEP_DEADLINE,
    NO_DEADLINE,
    Foreign,
    Reply,
    Route,
    Ticket,
    mutation,
    opened,
    plan_arguments,
    previous,
    update_arguments,
    updated,
)
from iii_state.values.ops import Plan, compile_text

LIMIT = values.MAX_VALUE_BYTES


def plan_of(ops: list[dict[str, Any]]) -> Plan:
    return compile_text(json.dumps(ops, ensure_ascii=False).encode())


class Engine:
    """Calls one at a time, on slot 0 unless told otherwise."""

    def __init__(self, client: redis.Redis, *, session: bytes | None = None, keys: Keys | None = None) -> None:
        self.client: Any = client
        """Any: redis-py's types know neither scripts in bytes nor which replies are bytes."""
        self.keys = keys or Keys()
        self.session = session or uuid4().hex.encode()
        self.epoch = 0
        self.reopen()
        self.routes_version = int(client.get(self.keys.routes_version) or 0)
        self.routes: list[Route] = []
        self.sequence = itertools.count(1)
        self.with_deadlines = False
        """Whether the scopes have deadlines, as far as this engine knows."""

    def reopen(self) -> None:
        """What an engine does on a new connection."""
        keys, arguments = [self.keys.session(self.session)], [b"%d" % self.epoch, b"%d" % (self.epoch + 1), b"600000"]
        self.epoch = opened(self.client.eval(script("sessions/open").source, 1, *keys, *arguments))

    def ticket(self, slot: int = 0) -> Ticket:
        return Ticket(self.session, self.epoch, slot, next(self.sequence))

    def run(
        self, name: str, scope: bytes, key: bytes, arguments: list[bytes], ticket: Ticket | None = None, ttl: bytes = NO_DEADLINE
    ) -> Reply:
        place = (self.routes_version, scope, key, self.routes, arguments)
        call = mutation(self.keys, ticket or self.ticket(), *place, ttl=ttl if self.with_deadlines else None)
        reply: Reply = self.call(name, *call)
        return reply

    def call(self, name: str, *call: bytes) -> Any:
        found = script(name)
        try:
            return self.client.execute_command("EVALSHA", found.sha1, *call)
        except redis.exceptions.NoScriptError:
            return self.client.execute_command("EVAL", found.source, *call)

    def set(self, scope: bytes, key: bytes, value: bytes, ticket: Ticket | None = None, ttl: bytes = NO_DEADLINE) -> bytes | None:
        return previous(self.run("values/set", scope, key, [value], ticket, ttl))

    def expire(self, scope: bytes, key: bytes, ticket: Ticket | None = None) -> bytes | None:
        return previous(self.run("deadlines/expire", scope, key, [], ticket))

    def delete(self, scope: bytes, key: bytes, ticket: Ticket | None = None) -> bytes | None:
        return previous(self.run("values/delete", scope, key, [], ticket))

    def update(
        self,
        scope: bytes,
        key: bytes,
        ops: list[dict[str, Any]],
        *,
        limit: int = LIMIT,
        ticket: Ticket | None = None,
        ttl: bytes = KEEP_DEADLINE,
    ) -> Updated:
        plan = plan_of(ops)
        compiled = plan_arguments(plan)
        ticket = ticket or self.ticket()
        try:
            return updated(self.run("values/update", scope, key, update_arguments(compiled, limit), ticket, ttl), plan, limit)
        except Foreign as foreign:
            msgspec.json.decode(foreign.text)
            stored = values.to_stored(foreign.text)
            arguments = update_arguments(compiled, limit, foreign.text, stored)
            return updated(self.run("values/update", scope, key, arguments, ticket, ttl), plan, limit)

    def stored(self, scope: bytes, key: bytes) -> bytes | None:
        found: bytes | None = self.client.hget(self.keys.values(scope).decode("utf-8", "surrogateescape"), key)
        return found

    def put(self, scope: bytes, key: bytes, text: bytes) -> None:
        """What another writer does."""
        self.client.hset(self.keys.values(scope), key, text)
