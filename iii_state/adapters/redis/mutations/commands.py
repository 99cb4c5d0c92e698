"""The mutations that callers make: set, delete, update."""

from __future__ import annotations

import logging

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.connection.call import AGAIN, Again, Reply
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.mutations.mutation import Mutation
from iii_state.adapters.redis.scripts.loader import script
from iii_state.adapters.redis.scripts.mutations import KEEP_DEADLINE, plan_arguments, previous, update_arguments, updated
from iii_state.adapters.redis.scripts.packing import packed
from iii_state.errors import StoreError
from iii_state.sessions import Request
from iii_state.values.ops import Plan

logger = logging.getLogger(__name__)

MAX_ANSWERED_BYTES = 40 * 1024 * 1024
"""Another program may have written more than an answer holds: the change would be made, and its answer could not be sent."""


class Replace(Mutation[bytes | None]):
    """A set or a delete, answered with what it has replaced."""

    __slots__ = ()

    def applied(self, reply: Reply) -> bytes | None:
        """The text that was replaced; nothing where that is no JSON, so that a broken value can be repaired."""
        old = previous(reply)
        if old is None or is_ours(old):
            return old
        if len(old) > MAX_ANSWERED_BYTES:
            told = "the value of %d bytes at scope %r, key %r has been replaced, and counts as null"
            logger.warning(told, len(old), self.scope, self.key)
            return None
        try:
            return checked(self.scope, self.key, old)
        except StoreError as error:
            logger.warning("%s; it has been replaced, and counts as null", error)
            return None


class Update(Mutation[Updated]):
    """An update by a plan, whose result has at most `limit` bytes."""

    __slots__ = ("_ops", "_plan", "limit")

    def __init__(
        self, fanout: Fanout, scope: str, key: str, plan: Plan, limit: int, request: Request | None, *, ttl_ms: int | None
    ) -> None:
        self._ops = plan_arguments(plan)
        own = update_arguments(self._ops, limit)
        super().__init__(fanout, script("values/update"), scope, key, own, request, ttl=KEEP_DEADLINE, ttl_ms=ttl_ms)
        self._plan = plan
        self.limit = limit

    def applied(self, reply: Reply) -> Updated:
        return updated(reply, self._plan)

    def take_on(self, text: bytes) -> Again:
        """The stored text is another writer's: it is checked here, and given to the script with its stored form."""
        self._own = update_arguments(self._ops, self.limit, text, checked(self.scope, self.key, text))
        self._packed_own = packed(self._own)
        return AGAIN
