"""Transactions of a kv store: several changes of one scope in one call, all or none.

What `redis/mutations/transaction.py` and `lua/values/transact.lua` do in a Redis: the steps are judged and their room in the queues
is reserved before the first of them changes anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from iii_state.adapters.kv.journal.transaction import Outcome
from iii_state.adapters.kv.queues import particular, refuse_overflow
from iii_state.adapters.kv.sessions import being_closed
from iii_state.adapters.kv.writing import Writing, fail
from iii_state.adapters.local_queue import Queue
from iii_state.errors import Code, ConditionFailed, FunctionError, RequestFenced
from iii_state.events import Change, Delivery
from iii_state.sessions import Request
from iii_state.tasks.results import Result, then
from iii_state.values.transactions import Done, Revisions, Step, carried_out, carry_out


class Transactions(Writing):
    """Writes of several values at once. See `base.Values.transact`."""

    def transact(self, scope: str, steps: Sequence[Step], limit: int, *, request: Request | None = None) -> Result[list[Done]]:
        keys = list(dict.fromkeys(step.key for step in steps))
        if request is not None and (done := self._sessions.recall(request, is_transaction=True)) is not None:
            return self._transacted_again(scope, steps, keys, request, done)
        if self._watched:
            for key in keys:
                self._end_if_over(scope, key)
        before = {key: self._current(scope, key) for key in keys}
        try:
            results = carry_out(scope, steps, before.get, limit, self._revisions(scope))
        except ConditionFailed as error:
            return self._unmet(error, scope, steps[error.step or 0].key, request)
        except FunctionError as error:
            if error.code != Code.OP_FAILED or self._commits is None:
                raise
            return self._refused(error, scope, next((key for key in keys if self._commits.changes_of((scope, key))), keys[0]))
        return self._write_all(scope, steps, results, list(before.values()), request)

    def _transacted_again(
        self, scope: str, steps: Sequence[Step], keys: Sequence[str], request: Request, done: Outcome
    ) -> Result[list[Done]]:
        """The result of a transaction made again: what it was the first time."""
        if done.unmet is None:
            before = dict(zip(keys, self._sessions.found(done), strict=False))
            return self._sessions.again(request, carried_out(scope, steps, before.get))
        step = done.unmet[1]
        conditions = None if step is None or step >= len(steps) else steps[step].conditions
        if step is None or conditions is None:  # it has the id of another call
            raise RequestFenced
        error = conditions.failure(done.unmet[0], scope, steps[step].key, done.old, step=step, is_recorded=not done.forgotten)
        return then(self._sessions.again(request, None), partial(fail, error))

    def _revisions(self, scope: str) -> Revisions | None:
        """Those that a transaction begins with, where the scope has a change log."""
        latest = None if self._history is None else self._history.latest(scope)
        return None if latest is None else Revisions(latest, partial(self._revision, scope))

    def _write_all(
        self, scope: str, steps: Sequence[Step], results: list[Done], before: list[bytes | None], request: Request | None
    ) -> Result[list[Done]]:
        """Make the changes of a transaction, all or none; `before` is what its keys held."""
        if self._closed:
            raise being_closed()
        events = self._reserve_all(scope, steps, results)
        if request is not None:
            self._sessions.record_transaction(request, before)
        commits = self._commits
        now = self._deadlines.now()
        deliveries: list[tuple[Queue, Delivery]] = []
        for step, (old, new, _), wanted in zip(steps, results, events, strict=True):
            place = (scope, step.key)
            if self._history is not None:
                self._history.append(scope, step.key, old, new, None)
            had = self._deadline(*place)
            deadline = now + step.ttl_ms if step.ttl_ms is not None and new is not None else had if step.plan is not None else None
            if commits is None:
                self._store(scope, step.key, new)
                if deadline != had:
                    self._deadlines.commit(scope, step.key, deadline)
            else:
                commits.filling.overlay[place] = new
                if deadline is not None or had is not None:
                    commits.filling.deadlines[place] = deadline
                deliveries += self._queues.deliveries(wanted)
            if deadline is not None and deadline != had:
                self._watch(scope, step.key, deadline)
        if commits is not None:
            return commits.wait(results, deliveries)
        for wanted in events:
            for queue, event in wanted:
                queue.unreserve(event)
                self._queues.push(queue, event)
        return results

    def _reserve_all(self, scope: str, steps: Sequence[Step], results: list[Done]) -> list[list[tuple[Queue, Change]]]:
        """Of each step the queues that want its event, and the event, which has room reserved there."""
        events: list[list[tuple[Queue, Change]]] = []
        reserved: list[tuple[Queue, Change]] = []
        try:
            for step, (old, new, _) in zip(steps, results, strict=True):
                queues = self._routes.matching(scope, step.key)
                event = self._event(scope, step.key, old, new)
                wanted = particular(queues, event) if self._routes.are_particular else [(queue, event) for queue in queues]
                events.append(wanted)
                for queue, event in wanted:
                    refuse_overflow(queue, event)
                    queue.reserve(event)
                    reserved.append((queue, event))
        except BaseException:
            for queue, event in reserved:
                queue.unreserve(event)
            raise
        return events
