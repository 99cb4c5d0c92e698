"""Values at a scope and a key: reading them, and each change of them, which is one script."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from iii_state.adapters.base import Reading, Replaced, Updated
from iii_state.adapters.redis.fleet.retention import HOLD_SECONDS
from iii_state.adapters.redis.keyspace.scopes import Scopes
from iii_state.adapters.redis.listing import Listing
from iii_state.adapters.redis.mutations.commands import (
    Remove,
    RemoveIf,
    RemoveWithMeta,
    Replace,
    ReplaceIf,
    ReplaceWithMeta,
    Touch,
    Update,
    UpdateIf,
)
from iii_state.adapters.redis.mutations.mutation import Mutation
from iii_state.adapters.redis.mutations.replicas import Replicas
from iii_state.adapters.redis.mutations.transaction import Transact
from iii_state.adapters.redis.reads import Get, GetMany, Read
from iii_state.adapters.redis.scripts.mutations import Postponed
from iii_state.adapters.redis.sessions import RedisSessions
from iii_state.adapters.redis.shared import Shared
from iii_state.sessions import Request
from iii_state.tasks.results import Result
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.values.transactions import Done, Step

T = TypeVar("T")


class RedisValues(Listing):
    """See `base.Values`. With `replicas`, a change is answered when these have it."""

    def __init__(self, shared: Shared, sessions: RedisSessions, scopes: Scopes, replicas: Replicas | None) -> None:
        super().__init__(shared, scopes)
        self._fanout = shared.fanout
        self._sessions = sessions
        self._replicas = replicas

    # -- one value

    def get(self, scope: str, key: str) -> Result[bytes | None]:
        """The stored text, None for a missing key, and for one whose deadline is over."""
        return self._call(Get(scope, key, self._names_of(scope), self._scripts))

    def read(self, scope: str, key: str) -> Result[Reading]:
        """The stored text, how long it has left, and its revision."""
        names, generation = self._names_of(scope), None
        logs = self._routes.logs
        if logs is not None and (log := logs.of(scope)) is not None:
            encoded, generation = scope.encode(), log.generation
            names = (names[0], self._keys.deadlines_of(encoded), self._keys.clock, self._keys.revisions(encoded))
        return self._call(Read(scope, key, names, self._scripts, generation))

    def get_many(self, scope: str, keys: Sequence[str]) -> Result[list[bytes | None]]:
        """The stored texts at these keys, at one instant."""
        return self._call(GetMany(scope, keys, self._names_of(scope), self._scripts)) if keys else []

    def set(
        self,
        scope: str,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[bytes | None]:
        """Store a value; answers what was there before."""
        if conditions is None:
            return self._change(Replace(self._fanout, scope, key, (value,), request, ttl_ms))
        return self._change(ReplaceIf(self._fanout, scope, key, (value,), request, ttl_ms, conditions))

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        """Remove a value; answers what was there."""
        if conditions is None:
            return self._change(Remove(self._fanout, scope, key, (), request))
        return self._change(RemoveIf(self._fanout, scope, key, (), request, None, conditions))

    def update(
        self,
        scope: str,
        key: str,
        plan: Plan,
        limit: int,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
        strict: bool = False,
        meta: bool = False,
    ) -> Result[Updated]:
        """Apply a plan to a value."""
        change = (plan, limit)
        if conditions is None and not strict and not meta:
            return self._change(Update(self._fanout, scope, key, change, request, ttl_ms))
        return self._change(UpdateIf(self._fanout, scope, key, change, request, ttl_ms, conditions, strict=strict, meta=meta))

    def replace(
        self,
        scope: str,
        key: str,
        value: bytes | None,
        *,
        ttl_ms: int | None = None,
        request: Request | None = None,
        conditions: Conditions | None = None,
    ) -> Result[Replaced]:
        """Store a value, or remove it; answers the revision, too."""
        if value is None:
            return self._change(RemoveWithMeta(self._fanout, scope, key, (), request, None, conditions))
        return self._change(ReplaceWithMeta(self._fanout, scope, key, (value,), request, ttl_ms, conditions))

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        """Let a value go after `ttl_ms`, or stay; answers whether there is one."""
        return self._change(Touch(self._fanout, scope, key, (), request, ttl_ms))

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        """Carry out steps, all or none."""
        return self._change(Transact(self._fanout, scope, steps, limit, request))

    def _change(self, mutation: Mutation[T]) -> Result[T]:
        if mutation.request is not None:
            self._sessions.keep(mutation.request.session)
        if mutation.ttl_ms is None or mutation.scope in self._routes.with_deadlines:
            return self._confirmed(mutation)
        mutation.can_be_held = True
        return self._background.call(self._first_deadline(mutation, self._confirmed(mutation)))

    def _confirmed(self, mutation: Mutation[T]) -> asyncio.Future[T]:
        answer = self._call(mutation)
        return answer if self._replicas is None else self._replicas.confirmed(answer)

    async def _first_deadline(self, mutation: Mutation[T], answer: asyncio.Future[T]) -> T:
        """The first deadline of a scope changes the routes, which may have to hold still."""
        while (result := await answer) is Postponed.HELD:
            await asyncio.sleep(HOLD_SECONDS)
            mutation.begin_again()
            answer = self._confirmed(mutation)
        return result
