"""Values in a cluster: each call goes to the partition of its scope."""

from __future__ import annotations

from collections.abc import Sequence

from iii_state.adapters.base import Entries, Reading, Replaced, Updated
from iii_state.adapters.redis.adapter import RedisAdapter
from iii_state.adapters.redis.cluster.partitions import Partitions
from iii_state.adapters.redis.cluster.sessions import ClusterSessions
from iii_state.adapters.selection import KeySelection
from iii_state.sessions import Request
from iii_state.tasks.background import Background
from iii_state.tasks.results import Result, result_of
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.values.transactions import Done, Step


class ClusterValues:
    """See `base.Values`. Deadlines are told in the time of the first partition: each has a clock of its own."""

    def __init__(self, partitions: Partitions[RedisAdapter], sessions: ClusterSessions, background: Background) -> None:
        self._partitions = partitions
        self._of = partitions.of
        self._sessions = sessions
        self._background = background

    # -- one value, or several of a scope

    def get(self, scope: str, key: str) -> Result[bytes | None]:
        """The stored text, None for a missing key."""
        return self._of(scope).values.get(scope, key)

    def read(self, scope: str, key: str) -> Result[Reading]:
        """The stored text, how long it has left, and its revision."""
        return self._of(scope).values.read(scope, key)

    def get_many(self, scope: str, keys: Sequence[str]) -> Result[list[bytes | None]]:
        """The stored texts at these keys, at one instant."""
        return self._of(scope).values.get_many(scope, keys)

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
        self._keep(request)
        return self._of(scope).values.set(scope, key, value, ttl_ms=ttl_ms, request=request, conditions=conditions)

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        """Remove a value; answers what was there."""
        self._keep(request)
        return self._of(scope).values.delete(scope, key, request=request, conditions=conditions)

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
        self._keep(request)
        update = self._of(scope).values.update
        return update(scope, key, plan, limit, ttl_ms=ttl_ms, request=request, conditions=conditions, strict=strict, meta=meta)

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
        self._keep(request)
        return self._of(scope).values.replace(scope, key, value, ttl_ms=ttl_ms, request=request, conditions=conditions)

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        """Let a value go after `ttl_ms`, or stay; answers whether there is one."""
        self._keep(request)
        return self._of(scope).values.touch(scope, key, ttl_ms, request=request)

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        """Carry out steps, all or none."""
        self._keep(request)
        return self._of(scope).values.transact(scope, steps, limit, request=request)

    def _keep(self, request: Request | None) -> None:
        if request is not None:
            self._sessions.keep(request.session)

    # -- listing

    def texts(self, scope: str, selection: KeySelection | None = None) -> Result[list[bytes]]:
        """The stored texts of a scope, or those that are asked for."""
        return self._of(scope).values.texts(scope, selection)

    def keys(self, scope: str, selection: KeySelection | None = None) -> Result[list[str]]:
        """The keys of a scope, or those that are asked for."""
        return self._of(scope).values.keys(scope, selection)

    def entries(self, scope: str, selection: KeySelection | None = None) -> Result[Entries]:
        """Keys and stored texts of a scope, or those that are asked for, and their deadlines."""
        partition = self._of(scope)
        found = partition.values.entries(scope, selection)
        return found if partition is self._partitions.first else self._background.call(self._in_first_time(found))

    async def _in_first_time(self, found: Result[Entries]) -> Entries:
        entries = await result_of(found)
        if not entries.deadlines:
            return entries
        now = await result_of(self.now())
        ahead = now - entries.now
        return Entries(entries.rows, {key: deadline + ahead for key, deadline in entries.deadlines.items()}, now)

    def now(self) -> Result[int]:
        """The time that deadlines are told in."""
        return self._partitions.first.values.now()

    def count(self, scope: str) -> Result[int | None]:
        """How many values lie in a scope."""
        return self._of(scope).values.count(scope)

    def scopes(self) -> Result[list[str]]:
        """The scopes that have a key, of all partitions."""
        return self._background.call(self._scopes())

    async def _scopes(self) -> list[str]:
        found = await self._partitions.gather(lambda partition: partition.scopes.all())
        return [scope for part in found for scope in part]
