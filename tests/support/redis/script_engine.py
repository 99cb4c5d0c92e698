"""The least of an engine that can call the mutation scripts: a session, sequence numbers, and what an adapter does with replies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
import pytest
import redis

from iii_state import values
from iii_state.adapters.base import Updated
from iii_state.adapters.redis.keys import Keys
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import (
    KEEP_DEADLINE,
    NO_DEADLINE,
    BoundedQueue,
    ForeignText,
    Refusal,
    Reply,
    RequestId,
    is_applied,
    mutation,
    opened,
    plan_arguments,
    previous,
    refusal,
    update_arguments,
    updated,
)
from iii_state.values.ops import Plan, compile_text

R = TypeVar("R")

LIMIT = values.MAX_VALUE_BYTES


class Refused(Exception):
    """A mutation has changed nothing, for this reason."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@contextmanager
def refused(kind: type[R]) -> Iterator[list[R]]:
    """What is done here has to be refused so; the list holds the refusal afterwards."""
    found: list[R] = []
    with pytest.raises(Refused) as raised:
        yield found
    assert isinstance(raised.value.refusal, kind)
    found.append(raised.value.refusal)


def applied(reply: Reply, limit: int = 0) -> Reply:
    """The reply of a mutation that was applied. Raises `Refused`."""
    if not is_applied(reply):
        raise Refused(refusal(reply, limit))
    return reply


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
        self._targets = list[BoundedQueue]()
        self.sequence = itertools.count(1)
        self.with_deadlines = False
        """Whether the scopes have deadlines, as far as this engine knows."""

    def reopen(self) -> None:
        """What an engine does on a new connection."""
        keys, arguments = [self.keys.session(self.session)], [b"%d" % self.epoch, b"%d" % (self.epoch + 1), b"600000"]
        self.epoch = opened(self.client.eval(script("sessions/open").source, 1, *keys, *arguments))

    def request(self, slot: int = 0) -> RequestId:
        return RequestId(self.session, self.epoch, slot, next(self.sequence))

    @property
    def targets(self) -> list[BoundedQueue]:
        """The queues that want every event. They are made, as registering does: a stream that is not there has been removed."""
        return self._targets

    @targets.setter
    def targets(self, targets: list[BoundedQueue]) -> None:
        self._targets = targets
        for target in targets:
            if not self.client.exists(stream := self.keys.stream(target.queue)):
                self.client.xgroup_create(stream, "engines", "$", mkstream=True)

    def run(
        self,
        name: str,
        scope: bytes,
        key: bytes,
        arguments: list[bytes],
        request: RequestId | None = None,
        ttl: bytes = NO_DEADLINE,
    ) -> Reply:
        place = (self.routes_version, scope, key, self.targets, arguments)
        call = mutation(self.keys, request or self.request(), *place, ttl=ttl if self.with_deadlines else None)
        reply: Reply = self.call(name, *call)
        return reply

    def call(self, name: str, *call: bytes) -> Any:
        found = script(name)
        try:
            return self.client.execute_command("EVALSHA", found.sha1, *call)
        except redis.exceptions.NoScriptError:
            return self.client.execute_command("EVAL", found.source, *call)

    def set(
        self, scope: bytes, key: bytes, value: bytes, request: RequestId | None = None, ttl: bytes = NO_DEADLINE
    ) -> bytes | None:
        return previous(applied(self.run("values/set", scope, key, [value], request, ttl)))

    def expire(self, scope: bytes, key: bytes, request: RequestId | None = None) -> bytes | None:
        return previous(applied(self.run("deadlines/expire", scope, key, [], request)))

    def delete(self, scope: bytes, key: bytes, request: RequestId | None = None) -> bytes | None:
        return previous(applied(self.run("values/delete", scope, key, [], request)))

    def update(
        self,
        scope: bytes,
        key: bytes,
        ops: list[dict[str, Any]],
        *,
        limit: int = LIMIT,
        request: RequestId | None = None,
        ttl: bytes = KEEP_DEADLINE,
    ) -> Updated:
        plan = plan_of(ops)
        compiled = plan_arguments(plan)
        request = request or self.request()
        reply = self.run("values/update", scope, key, update_arguments(compiled, limit), request, ttl)
        if not is_applied(reply) and isinstance(foreign := refusal(reply, limit), ForeignText):
            msgspec.json.decode(foreign.text)
            stored = values.to_stored(foreign.text)
            arguments = update_arguments(compiled, limit, foreign.text, stored)
            reply = self.run("values/update", scope, key, arguments, request, ttl)
        return updated(applied(reply, limit), plan)

    def stored(self, scope: bytes, key: bytes) -> bytes | None:
        found: bytes | None = self.client.hget(self.keys.values(scope).decode("utf-8", "surrogateescape"), key)
        return found

    def put(self, scope: bytes, key: bytes, text: bytes) -> None:
        """What another writer does."""
        self.client.hset(self.keys.values(scope), key, text)
