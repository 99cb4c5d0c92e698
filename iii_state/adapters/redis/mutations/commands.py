"""The mutations that callers make: set, delete, update."""

from __future__ import annotations

import logging
from typing import Generic, TypeVar

from iii_state.adapters.base import Replaced, Updated
from iii_state.adapters.redis.connection.call import AGAIN, Again, Reply
from iii_state.adapters.redis.mutations.fanout import Fanout
from iii_state.adapters.redis.mutations.foreign_text import checked, is_ours
from iii_state.adapters.redis.mutations.mutation import Expire, Mutation
from iii_state.adapters.redis.scripts.mutations import (
    KEEP_DEADLINE,
    Unmet,
    all_or_nothing,
    checked_text,
    op_failed,
    plan_arguments,
    previous,
    revision,
    update_arguments,
    updated,
)
from iii_state.adapters.redis.scripts.packing import packed
from iii_state.errors import RequestFenced, StoreError
from iii_state.sessions import Request
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.wire.quiet_log import QuietLog

T = TypeVar("T")

_quiet = QuietLog(logging.getLogger(__name__))

MAX_ANSWERED_BYTES = 40 * 1024 * 1024
"""Another program may have written more than an answer holds: the change would be made, and its answer could not be sent."""


class Replace(Mutation[bytes | None]):
    """Stores a value; answered with what it has replaced."""

    __slots__ = ()
    name = "values/set"
    kind = b"s"

    def applied(self, reply: Reply) -> bytes | None:
        """The text that was replaced; nothing where that is no JSON, so that a broken value can be repaired."""
        return replaced_text(self.scope, self.key, previous(reply))


class Remove(Replace):
    """Removes a value; answered with what was there."""

    __slots__ = ()
    name = "values/delete"
    kind = b"d"


class Conditional(Mutation[T], Generic[T]):
    """Stores a value, or removes it, where conditions hold for the one there is; `value` is the script's own argument, if
    it has one.

    These are judged on checked text alone, and so what is no JSON is not replaced.
    """

    __slots__ = ("_conditions", "_value")

    def __init__(
        self,
        fanout: Fanout,
        scope: str,
        key: str,
        value: tuple[bytes, ...],
        request: Request | None,
        ttl_ms: int | None,
        conditions: Conditions | None,
    ) -> None:
        self._value = value
        self._conditions = conditions
        own = value if conditions is None else [*conditions.arguments(), *value]
        super().__init__(fanout, scope, key, own, request, ttl_ms)

    def take_on(self, text: bytes) -> Again:
        """The stored text is another writer's, or its etag is asked for: it is given to the script with what there is to know."""
        assert self._conditions is not None
        stored = checked(self.scope, self.key, text)
        self.give([*self._conditions.arguments(stored), *(self._value or (b"",)), *checked_text(text, stored)])
        return AGAIN

    def unmet(self, refused: Unmet) -> Exception:
        return failure(self._conditions, refused, self.scope, self.key)


class ReplaceIf(Conditional[bytes | None]):
    """Stores a value where conditions hold; answered with what it has replaced."""

    __slots__ = ()
    name = "values/set"

    def applied(self, reply: Reply) -> bytes | None:
        return replaced_text(self.scope, self.key, previous(reply))


class RemoveIf(ReplaceIf):
    """Removes a value for which conditions hold."""

    __slots__ = ()
    name = "values/delete"


class ReplaceWithMeta(Conditional[Replaced]):
    """Stores a value, where conditions hold if there are any; answered with the revision, too."""

    __slots__ = ()
    name = "values/set"

    def applied(self, reply: Reply) -> Replaced:
        return Replaced(replaced_text(self.scope, self.key, previous(reply)), revision(reply))


class RemoveWithMeta(ReplaceWithMeta):
    """Removes a value, likewise."""

    __slots__ = ()
    name = "values/delete"


class Touch(Mutation[bool]):
    """Gives a value the deadline of `ttl_ms`, or none; answered with whether there is a value."""

    __slots__ = ()
    name = "values/touch"

    def applied(self, reply: Reply) -> bool:
        return bool(int(reply[-1]))

    def result(self, reply: Reply) -> bool | Again:
        """A value that is over goes first, with its event; where that cannot be now, it is removed later, and is not there."""
        if reply[0] == b"OVER":
            self.give((b"over",))
            return Again(Expire(self._fanout, self.scope, self.key))
        return super().result(reply)


class Update(Mutation[Updated]):
    """Applies a plan; `change` is that plan, and the most bytes that its result may have."""

    __slots__ = ("_ops", "_plan", "limit")
    name = "values/update"
    kind = b"u"
    ttl = KEEP_DEADLINE

    def __init__(
        self, fanout: Fanout, scope: str, key: str, change: tuple[Plan, int], request: Request | None, ttl_ms: int | None
    ) -> None:
        self._plan, self.limit = plan, limit = change
        known = _arguments.get((plan.text, limit)) or _arguments_of(plan, limit)
        super().__init__(fanout, scope, key, (), request, ttl_ms)
        self._ops, self._own, self._packed_own = known
        self.size = len(self._packed_own)

    def applied(self, reply: Reply) -> Updated:
        return updated(reply, self._plan)

    def take_on(self, text: bytes) -> Again:
        """The stored text is another writer's: it is checked here, and given to the script with its stored form."""
        self.give(update_arguments(self._ops, self.limit, text, checked(self.scope, self.key, text)))
        return AGAIN


_arguments: dict[tuple[bytes, int], tuple[list[bytes], list[bytes], bytes]] = {}
"""Of plans and limits that have been asked for: the ops, with the limit, and those packed. Many updates have the same ops."""

MOST_KNOWN = 1024
KNOWN_BYTES = 512
"""So many are kept, of op lists with so many bytes at most."""


def _arguments_of(plan: Plan, limit: int) -> tuple[list[bytes], list[bytes], bytes]:
    ops = plan_arguments(plan)
    own = update_arguments(ops, limit)
    found = ops, own, packed(own)
    if len(plan.text) <= KNOWN_BYTES:
        if len(_arguments) >= MOST_KNOWN:
            _arguments.clear()
        _arguments[plan.text, limit] = found
    return found


class UpdateIf(Update):
    """Applies a plan where conditions hold, as a whole or not at all if it is `strict`."""

    __slots__ = ("_conditions", "_meta")
    kind = b""

    def __init__(
        self,
        fanout: Fanout,
        scope: str,
        key: str,
        change: tuple[Plan, int],
        request: Request | None,
        ttl_ms: int | None,
        conditions: Conditions | None,
        *,
        strict: bool,
        meta: bool,
    ) -> None:
        self._conditions = conditions
        self._meta = meta
        super().__init__(fanout, scope, key, change, request, ttl_ms)
        if strict:
            self._ops = [*all_or_nothing(self._plan), *self._ops]
        self.give([*(() if conditions is None else conditions.arguments()), *update_arguments(self._ops, self.limit)])

    def applied(self, reply: Reply) -> Updated:
        done = super().applied(reply)
        return done._replace(revision=revision(reply)) if self._meta else done

    def result(self, reply: Reply) -> Updated | Again:
        if reply[0] == b"OP_FAILED":
            raise op_failed(self._plan, reply[1])
        return super().result(reply)

    def take_on(self, text: bytes) -> Again:
        stored = checked(self.scope, self.key, text)
        own = update_arguments(self._ops, self.limit, text, stored)
        self.give(own if self._conditions is None else [*self._conditions.arguments(stored), *own])
        return AGAIN

    def unmet(self, refused: Unmet) -> Exception:
        return failure(self._conditions, refused, self.scope, self.key)


def failure(conditions: Conditions | None, refused: Unmet, scope: str, key: str) -> Exception:
    """The error of a condition that does not hold, or did not at an earlier attempt."""
    if conditions is None:  # it has the id of another call
        return RequestFenced()
    return conditions.failure(refused.condition, scope, key, refused.text, is_recorded=refused.is_recorded)


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
