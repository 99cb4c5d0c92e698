"""The values of a kv store, in memory, and the way of a write to them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NoReturn, TypeVar

from iii_state import lineages, values
from iii_state.adapters.base import Entries, Reading, Replaced, Updated
from iii_state.adapters.kv.deadlines import KvDeadlines
from iii_state.adapters.kv.journal.changes import Changes
from iii_state.adapters.kv.journal.commits import Commits
from iii_state.adapters.kv.journal.file import Contents
from iii_state.adapters.kv.journal.transaction import Outcome
from iii_state.adapters.kv.log import KvHistory
from iii_state.adapters.kv.queues import KvQueues, particular, refuse_overflow
from iii_state.adapters.kv.sessions import KvSessions, being_closed
from iii_state.adapters.kv.sorted_keys import SortedKeys
from iii_state.adapters.local_queue import Queue
from iii_state.adapters.selection import KeySelection
from iii_state.errors import Code, ConditionFailed, FunctionError, RequestFenced, too_large
from iii_state.events import Cause, Change, Delivery, EventType, write_id_of
from iii_state.sessions import Request
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Result, then
from iii_state.values.apply import apply
from iii_state.values.conditions import Conditions
from iii_state.values.ops import Plan
from iii_state.values.transactions import Done, Revisions, Step, carried_out, carry_out

T = TypeVar("T")

_watching = Afterwards("planning the end of a value with a deadline")


def _fail(error: FunctionError, settled: object) -> NoReturn:
    raise error


class KvValues:
    """See `base.Values`. `commits` are those of the store's journal, None where it lives in memory; `history` is there where any
    scope has a change log.

    What has been committed is read; mutations see what is on its way into the journal, too.
    """

    def __init__(
        self,
        queues: KvQueues,
        sessions: KvSessions,
        commits: Commits | None,
        clock: Callable[[], int],
        history: KvHistory | None = None,
    ) -> None:
        self._queues = queues
        self._routes = queues.routes
        self._sessions = sessions
        self._commits = commits
        self._history = history
        self._held: dict[str, dict[str, bytes]] = {}
        """Scope → key → stored text, of what has been committed."""
        self._sorted: dict[str, SortedKeys] = {}
        """Scope → its keys in order, of scopes that have been listed so."""
        self.deadlines = self._deadlines = KvDeadlines(self._has_deadline, self._end_if_over, clock)
        self._watched = self._deadlines.watched
        self._epoch = secrets.token_hex(6)
        """What the ids of the writes made here begin with."""
        self._writes = 0
        self._closed = False

    # -- opening and closing

    def load(self, contents: Contents) -> None:
        """Take on what a file held."""
        self._epoch = str(contents.epoch)
        for scope, key, value in contents.values:
            self._held.setdefault(scope.decode(), {})[key.decode()] = value
        for scope, key, at in contents.deadlines:
            self._deadlines.commit(scope.decode(), key.decode(), at)
            self._deadlines.watch(scope.decode(), key.decode(), at)

    def end_due(self) -> None:
        """End the values whose deadline has passed while the store was closed."""
        self._deadlines.end_due()

    def close(self) -> None:
        """Refuse mutations from now on."""
        self._deadlines.stop()
        self._closed = True

    # -- reading

    def get(self, scope: str, key: str) -> bytes | None:
        held = self._held.get(scope)
        if held is None or (self._watched and self._is_over(self._deadlines.of(scope, key))):
            return None
        return held.get(key)

    def read(self, scope: str, key: str) -> Reading:
        deadline = self._deadlines.of(scope, key)
        left = None if deadline is None else deadline - self._deadlines.now()
        if left is not None and left <= 0:
            return Reading(None)
        text = self._held.get(scope, {}).get(key)
        revision = None if text is None or self._history is None else self._history.revision(scope, key)
        return Reading(text, None if text is None else left, revision)

    def get_many(self, scope: str, keys: Sequence[str]) -> list[bytes | None]:
        held, over = self._held.get(scope, {}), self._deadlines.over(scope)
        return [None if key in over else held.get(key) for key in keys]

    def texts(self, scope: str, selection: KeySelection | None = None) -> list[bytes]:
        if selection is not None:
            return [text for _, text in self._selected(scope, selection)]
        held = self._held.get(scope, {})
        over = self._deadlines.over(scope)
        return [text for key, text in held.items() if key not in over] if over else list(held.values())

    def entries(self, scope: str, selection: KeySelection | None = None) -> Entries:
        rows = list(self._held.get(scope, {}).items()) if selection is None else self._selected(scope, selection)
        deadlines, now = self._deadlines.of_scope(scope), self._deadlines.now()
        if deadlines:
            rows = [(key, text) for key, text in rows if deadlines.get(key, now + 1) > now]
        return Entries(rows, deadlines, now)

    def now(self) -> int:
        return self._deadlines.now()

    def keys(self, scope: str, selection: KeySelection | None = None) -> list[str]:
        if selection is not None:
            return [key for key, _ in self._selected(scope, selection)]
        over = self._deadlines.over(scope)
        return [key for key in self._held.get(scope, ()) if key not in over]

    def _selected(self, scope: str, selection: KeySelection) -> list[tuple[str, bytes]]:
        held = self._held.get(scope)
        if held is None:
            return []
        keys = self._sorted.get(scope)
        if keys is None:
            keys = self._sorted[scope] = SortedKeys(held)
        over = self._deadlines.over(scope)
        return [(key, held[key]) for key in islice((key for key in keys.select(selection) if key not in over), selection.limit)]

    def scopes(self) -> list[str]:
        return [scope for scope, held in self._held.items() if len(self._deadlines.over(scope)) < len(held)]

    # -- writing

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
        return then(settled, partial(_fail, error))

    def _unmet(self, error: ConditionFailed, scope: str, key: str, request: Request | None) -> Result[T]:
        """A condition does not hold: that is recorded, and changes nothing."""
        if self._closed:
            raise being_closed()
        if request is not None:
            self._sessions.record(request, error.text, (error.index, error.step))
            if self._commits is not None:
                return then(self._commits.wait(None), partial(_fail, error))
        return self._refused(error, scope, key)

    def _refused(self, error: FunctionError, scope: str, key: str) -> Result[T]:
        """A call fails for what it has found, once that lasts: it may be of a change that is on its way into the journal."""
        if self._commits is None or self._commits.changes_of((scope, key)) is None:
            raise error
        return then(self._commits.wait(None), partial(_fail, error))

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

    def _revision(self, scope: str, key: str) -> int | None:
        """The revision of what mutations see."""
        return None if self._history is None else self._history.current_revision(scope, key)

    def _next_revision(self, scope: str) -> int | None:
        """The revision of the change that is made next."""
        latest = None if self._history is None else self._history.latest(scope)
        return None if latest is None else latest + 1

    def _revisions(self, scope: str) -> Revisions | None:
        """Those that a transaction begins with, where the scope has a change log."""
        latest = None if self._history is None else self._history.latest(scope)
        return None if latest is None else Revisions(latest, partial(self._revision, scope))

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
        return then(self._sessions.again(request, None), partial(_fail, error))

    def _current(self, scope: str, key: str) -> bytes | None:
        """What mutations see."""
        if self._commits is not None:
            changes = self._commits.changes_of((scope, key))
            if changes is not None:
                return changes.overlay[scope, key]
        held = self._held.get(scope)
        return None if held is None else held.get(key)

    def _write(
        self,
        scope: str,
        key: str,
        old: bytes | None,
        new: bytes | None,
        result: T,
        request: Request | None,
        deadline: int | None = None,
        cause: Cause | None = None,
    ) -> Result[T]:
        """Make a mutation: the value, the record of its request, its events, its deadline. Once all that lasts, it is `result`."""
        if self._closed:  # it would not be written any more, and so its call would never be answered
            raise being_closed()
        queues = self._routes.matching(scope, key)
        event: Change | None = None
        wanted: Sequence[tuple[Queue, Change]] | None = None
        if queues:
            event = self._event(scope, key, old, new, cause)
            if self._routes.are_particular:
                wanted = particular(queues, event)
                for queue, part in wanted:
                    refuse_overflow(queue, part)
            else:
                for queue in queues:
                    refuse_overflow(queue, event)
        changes_deadline = deadline is not None or (self._watched and self._deadline(scope, key) is not None)
        revision = None if self._history is None else self._history.append(scope, key, old, new, cause)
        if request is not None:
            self._sessions.record(request, old, revision=revision)
        commits = self._commits
        if commits is None:
            self._store(scope, key, new)
            if changes_deadline:
                self._deadlines.commit(scope, key, deadline)
            if wanted is not None:
                for queue, part in wanted:
                    self._queues.push(queue, part)
            elif event is not None:
                for queue in queues:
                    self._queues.push(queue, event)
            if deadline is not None:
                self._watch(scope, key, deadline)
            return result
        if wanted is None:
            wanted = [] if event is None else [(queue, event) for queue in queues]
        written = commits.write((scope, key), new, result, self._queues.reserve(wanted))
        if changes_deadline:
            commits.filling.deadlines[scope, key] = deadline
        if deadline is not None:
            self._watch(scope, key, deadline)
        return written

    def _event(self, scope: str, key: str, old: bytes | None, new: bytes | None, cause: Cause | None = None) -> Change:
        kind: EventType = "state:deleted" if new is None else "state:created" if old is None else "state:updated"
        self._writes += 1
        lineage = None if cause is not None else lineages.current()
        return Change(write_id_of(f"{self._epoch}-{self._writes}", cause), scope, key, kind, old, new, cause, lineage)

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

    def _store(self, scope: str, key: str, value: bytes | None) -> None:
        held = self._held.get(scope)
        if self._sorted and held is not None and (keys := self._sorted.get(scope)) is not None and (value is None) == (key in held):
            (keys.add if value is not None else keys.remove)(key)
        if value is not None:
            if held is None:
                held = self._held[scope] = {}
            held[key] = value
        elif held is not None and held.pop(key, None) is not None and not held:
            del self._held[scope]
            self._sorted.pop(scope, None)

    def committed(self, written: Changes) -> None:
        """What was written is seen from now on."""
        for (scope, key), value in written.overlay.items():
            self._store(scope, key, value)
        for (scope, key), deadline in written.deadlines.items():
            self._deadlines.commit(scope, key, deadline)

    # -- deadlines

    def _is_over(self, deadline: int | None) -> bool:
        return deadline is not None and deadline <= self._deadlines.now()

    def _deadline(self, scope: str, key: str) -> int | None:
        """The deadline of what mutations see."""
        if not self._watched:
            return None
        changes = None if self._commits is None else self._commits.changes_of((scope, key))
        return self._deadlines.of(scope, key) if changes is None else changes.deadlines.get((scope, key))

    def _has_deadline(self, scope: str, key: str, at: int) -> bool:
        return self._deadlines.of(scope, key) == at or self._deadline(scope, key) == at

    def _watch(self, scope: str, key: str, deadline: int) -> None:
        try:
            self._deadlines.watch(scope, key, deadline)
        except Exception as error:
            _watching.failed(error)

    def _end_if_over(self, scope: str, key: str) -> bool:
        """A value that is over goes, as a mutation of its own, before anything else happens to its key. Whether it was over."""
        is_over = self._is_over(self._deadline(scope, key))
        if is_over:
            removal = self._write(scope, key, self._current(scope, key), None, None, None, cause="expired")
            if removal is not None:
                removal.add_done_callback(asyncio.Future.exception)  # if it fails, the value is looked at again
        return is_over
