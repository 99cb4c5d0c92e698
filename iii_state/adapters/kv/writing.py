"""The way of a write into a kv store: its value, the record of its request, its events, its deadline, and the journal behind them.

What `redis/mutations/` does for a Redis.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from iii_state import lineages
from iii_state.adapters.kv.deadlines import KvDeadlines
from iii_state.adapters.kv.held import Held
from iii_state.adapters.kv.journal.changes import Changes
from iii_state.adapters.kv.journal.commits import Commits
from iii_state.adapters.kv.journal.file import Contents
from iii_state.adapters.kv.log import KvHistory
from iii_state.adapters.kv.queues import KvQueues, particular, refuse_overflow
from iii_state.adapters.kv.sessions import KvSessions, being_closed
from iii_state.adapters.local_queue import Queue
from iii_state.errors import ConditionFailed, FunctionError
from iii_state.events import Cause, Change, EventType, write_id_of
from iii_state.sessions import Request
from iii_state.tasks.effects import Afterwards
from iii_state.tasks.results import Result, then

T = TypeVar("T")

_watching = Afterwards("planning the end of a value with a deadline")


def fail(error: FunctionError, settled: object) -> NoReturn:
    """What a call that fails does once what it has found lasts (`then`)."""
    raise error


class Writing(Held):
    """What is held, and how that is changed. `commits` are those of the store's journal, None where it lives in memory.

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
        super().__init__(KvDeadlines(self._has_deadline, self._end_if_over, clock), history)
        self._queues = queues
        self._routes = queues.routes
        self._sessions = sessions
        self._commits = commits
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

    # -- what mutations see

    def _current(self, scope: str, key: str) -> bytes | None:
        """What mutations see."""
        if self._commits is not None:
            changes = self._commits.changes_of((scope, key))
            if changes is not None:
                return changes.overlay[scope, key]
        held = self._held.get(scope)
        return None if held is None else held.get(key)

    def _deadline(self, scope: str, key: str) -> int | None:
        """The deadline of what mutations see."""
        if not self._watched:
            return None
        changes = None if self._commits is None else self._commits.changes_of((scope, key))
        return self._deadlines.of(scope, key) if changes is None else changes.deadlines.get((scope, key))

    def _revision(self, scope: str, key: str) -> int | None:
        """The revision of what mutations see."""
        return None if self._history is None else self._history.current_revision(scope, key)

    def _next_revision(self, scope: str) -> int | None:
        """The revision of the change that is made next."""
        latest = None if self._history is None else self._history.latest(scope)
        return None if latest is None else latest + 1

    # -- writing

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

    def committed(self, written: Changes) -> None:
        """What was written is seen from now on."""
        for (scope, key), value in written.overlay.items():
            self._store(scope, key, value)
        for (scope, key), deadline in written.deadlines.items():
            self._deadlines.commit(scope, key, deadline)

    # -- failing

    def _unmet(self, error: ConditionFailed, scope: str, key: str, request: Request | None) -> Result[T]:
        """A condition does not hold: that is recorded, and changes nothing."""
        if self._closed:
            raise being_closed()
        if request is not None:
            self._sessions.record(request, error.text, (error.index, error.step))
            if self._commits is not None:
                return then(self._commits.wait(None), partial(fail, error))
        return self._refused(error, scope, key)

    def _refused(self, error: FunctionError, scope: str, key: str) -> Result[T]:
        """A call fails for what it has found, once that lasts: it may be of a change that is on its way into the journal."""
        if self._commits is None or self._commits.changes_of((scope, key)) is None:
            raise error
        return then(self._commits.wait(None), partial(fail, error))

    # -- deadlines

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
