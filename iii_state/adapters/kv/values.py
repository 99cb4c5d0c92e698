"""The values of a kv store: each change of one of them."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from iii_state import values
from iii_state.adapters.base import Replaced, Updated
from iii_state.adapters.kv.journal.transaction import Outcome
from iii_state.adapters.kv.sessions import being_closed
from iii_state.adapters.kv.transactions import Transactions
from iii_state.adapters.kv.writing import fail
from iii_state.errors import Code, FunctionError, RequestFenced, too_large
from iii_state.sessions import Request
from iii_state.tasks.results import Result, then
from iii_state.values.apply import apply
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan

T = TypeVar("T")


class KvValues(Transactions):
    """See `base.Values`. Reading is in `Held`, what all changes have in common in `Writing`, several at once in `Transactions`."""

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
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._again(scope, key, request, done, conditions, done.old)
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        if conditions is not None and (failing := conditions.failing(old, self._revision(scope, key))) is not None:
            return self._unmet(conditions.failure(failing, scope, key, old), scope, key, request)
        return self._write(scope, key, old, value, old, request, None if ttl_ms is None else self._deadlines.now() + ttl_ms)

    def delete(
        self, scope: str, key: str, *, request: Request | None = None, conditions: Conditions | None = None
    ) -> Result[bytes | None]:
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._again(scope, key, request, done, conditions, done.old)
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        if conditions is not None and (failing := conditions.failing(old, self._revision(scope, key))) is not None:
            return self._unmet(conditions.failure(failing, scope, key, old), scope, key, request)
        return self._write(scope, key, old, None, old, request)

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
        if request is not None and (done := self._sessions.recall(request)) is not None:
            again = Updated(done.old, *apply(plan, done.old), done.revision if meta else None)
            return self._again(scope, key, request, done, conditions, again)
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        if conditions is not None and (failing := conditions.failing(old, self._revision(scope, key))) is not None:
            return self._unmet(conditions.failure(failing, scope, key, old), scope, key, request)
        new, errors = apply(plan, old)
        if strict and errors:
            return self._refused(FunctionError(Code.OP_FAILED, errors[0].message), scope, key)
        if len(new) > limit and (size := values.compact_size(new)) > limit:
            raise too_large(size, limit)
        deadline = self._deadline(scope, key) if ttl_ms is None else self._deadlines.now() + ttl_ms
        updated = Updated(old, new, errors, self._next_revision(scope)) if meta else Updated(old, new, errors)
        return self._write(scope, key, old, new, updated, request, deadline)

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
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._again(scope, key, request, done, conditions, Replaced(done.old, done.revision))
        if self._watched:
            self._end_if_over(scope, key)
        old = self._current(scope, key)
        if conditions is not None and (failing := conditions.failing(old, self._revision(scope, key))) is not None:
            return self._unmet(conditions.failure(failing, scope, key, old), scope, key, request)
        deadline = None if ttl_ms is None else self._deadlines.now() + ttl_ms
        return self._write(scope, key, old, value, Replaced(old, self._next_revision(scope)), request, deadline)

    def touch(self, scope: str, key: str, ttl_ms: int | None, *, request: Request | None = None) -> Result[bool]:
        if request is not None and (done := self._sessions.recall(request)) is not None:
            return self._sessions.again(request, done.old is not None)
        if self._watched:
            self._end_if_over(scope, key)
        if self._closed:
            raise being_closed()
        text = self._current(scope, key)
        deadline = None if text is None or ttl_ms is None else self._deadlines.now() + ttl_ms
        if request is not None:
            self._sessions.record(request, None if text is None else b"true")
        touched: Result[bool] = text is not None
        if self._commits is None:
            if text is not None:
                self._deadlines.commit(scope, key, deadline)
        elif text is None:
            touched = self._commits.wait(False)
        else:
            touched = self._commits.write((scope, key), text, True, [])
            self._commits.filling.deadlines[scope, key] = deadline
        if deadline is not None:
            self._watch(scope, key, deadline)
        return touched

    def _again(self, scope: str, key: str, request: Request, done: Outcome, conditions: Conditions | None, result: T) -> Result[T]:
        """The result of a call made again: what it was the first time."""
        settled = self._sessions.again(request, result)
        if done.unmet is None:
            return settled
        index, step = done.unmet
        if conditions is None or step is not None:  # it has the id of another call
            raise RequestFenced
        error = conditions.failure(index, scope, key, done.old, step=step, is_recorded=not done.forgotten)
        return then(settled, partial(fail, error))
