"""The mutations that callers make: set, delete, update."""

from __future__ import annotations

import logging

from iii_state.adapters.base import Updated
from iii_state.adapters.redis.connection.call import AGAIN, Again, Reply
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.mutations.mutation import Mutation
from iii_state.adapters.redis.scripts.mutations import KEEP_DEADLINE, plan_arguments, previous, update_arguments, updated
from iii_state.adapters.redis.scripts.packing import packed
from iii_state.errors import StoreError
from iii_state.sessions import Request
from iii_state.values.ops import Plan
from iii_state.wire.quiet_log import QuietLog

_quiet = QuietLog(logging.getLogger(__name__))

MAX_ANSWERED_BYTES = 40 * 1024 * 1024
"""Another program may have written more than an answer holds: the change would be made, and its answer could not be sent."""


class Replace(Mutation[bytes | None]):
    """Stores a value; answered with what it has replaced."""

    __slots__ = ()
    name = "values/set"

    def applied(self, reply: Reply) -> bytes | None:
        """The text that was replaced; nothing where that is no JSON, so that a broken value can be repaired."""
        return replaced_text(self.scope, self.key, previous(reply))


class Remove(Replace):
    """Removes a value; answered with what was there."""

    __slots__ = ()
    name = "values/delete"


class Update(Mutation[Updated]):
    """Applies a plan; `change` is that plan, and the most bytes that its result may have."""

    __slots__ = ("_ops", "_plan", "limit")
    name = "values/update"
    ttl = KEEP_DEADLINE

    def __init__(
        self, fanout: Fanout, scope: str, key: str, change: tuple[Plan, int], request: Request | None, ttl_ms: int | None
    ) -> None:
        self._plan, self.limit = change
        self._ops = plan_arguments(self._plan)
        super().__init__(fanout, scope, key, update_arguments(self._ops, self.limit), request, ttl_ms)

    def applied(self, reply: Reply) -> Updated:
        return updated(reply, self._plan)

    def take_on(self, text: bytes) -> Again:
        """The stored text is another writer's: it is checked here, and given to the script with its stored form."""
        self._own = update_arguments(self._ops, self.limit, text, checked(self.scope, self.key, text))
        self._packed_own = packed(self._own)
        return AGAIN


def replaced_text(scope: str, key: str, old: bytes | None) -> bytes | None:
    """What was replaced at this place, of what lay there; None where that is no JSON, or too large to be told."""
    if old is None or is_ours(old):
        return old
    if len(old) > MAX_ANSWERED_BYTES:
        told = "the value of %d bytes at scope %r, key %r has been replaced, and counts as null"
        _quiet.warning(told, len(old), scope, key, ids={"scope": scope, "key": key})
        return None
    try:
        return checked(scope, key, old)
    except StoreError as error:
        _quiet.warning("%s; it has been replaced, and counts as null", error, ids={"scope": scope, "key": key})
        return None
