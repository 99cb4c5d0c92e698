"""The change logs of a kv store: in memory, and behind it in the journal where there is one.

A change is written in the transaction of its write, and is seen when that lasts. Mutations count on from what is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice

from iii_state.adapters.kv.journal.changes import Changes, LoggedChange
from iii_state.adapters.kv.journal.commits import Commits
from iii_state.adapters.kv.journal.file import Contents
from iii_state.events import Cause, Change, EventType
from iii_state.history import PAGE_BYTES, Logged, LogPage, LogRule, LogRules, Position, check_kept, no_log, parse_position

AGE_SECONDS = 30.0
"""So often, and as often as a quarter of the shortest `max_age_ms`, changes are looked for that are too old."""

LEAST_AGE_SECONDS = 0.05

ENDS_PER_TURN = 1000
"""So many changes go for their age before the event loop gets its turn."""

LOOKED_AT = 1000
"""So many changes are looked at for one page of a key's."""

TRIMMED_AT_ONCE = 64
"""The file forgets so many changes in one go."""


class ScopeLog:
    """What has been committed of one scope. `last` is the latest revision, `first` the oldest of the `changes` that are kept."""

    __slots__ = ("changes", "last", "revisions", "rule")

    def __init__(self, rule: LogRule, last: int = 0) -> None:
        self.rule = rule
        self.last = last
        self.changes: deque[LoggedChange] = deque()
        self.revisions: dict[str, int] = {}
        """Key → the revision of the value that is there."""

    @property
    def first(self) -> int:
        return self.last - len(self.changes) + 1

    def append(self, change: LoggedChange) -> None:
        """Take on the next change."""
        self.changes.append(change)
        self.last = change.revision
        if len(self.changes) > self.rule.max_length:
            self.changes.popleft()
        if change.new is None:
            self.revisions.pop(change.key, None)
        else:
            self.revisions[change.key] = change.revision


class KvHistory:
    """See `base.History`. `commits` are those of the store's journal, None where it lives in memory; `store` gives its id."""

    def __init__(self, rules: LogRules, commits: Commits | None, clock: Callable[[], int], store: Callable[[], str]) -> None:
        self._rules = rules
        self._commits = commits
        self._clock = clock
        self._store = store
        self._logs: dict[str, ScopeLog] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def has_rules(self) -> bool:
        """Whether any scope has a log."""
        return bool(self._rules)

    # -- opening and closing

    def load(self, contents: Contents) -> None:
        """Take on what a file held."""
        for scope, last in contents.logs:
            if (rule := self._rules.of(scope.decode())) is not None:
                self._logs[scope.decode()] = ScopeLog(rule, last)
        for scope, key, revision in contents.revisions:
            if (log := self._logs.get(scope.decode())) is not None:
                log.revisions[key.decode()] = revision
        for scope, revision, at_ms, key, old, new, cause in contents.history:
            if (log := self._logs.get(scope.decode())) is not None:
                log.changes.append(LoggedChange(scope.decode(), revision, at_ms, key.decode(), old, new, cause))
                if len(log.changes) > log.rule.max_length:
                    log.changes.popleft()

    def start(self) -> None:
        """Let changes go for their age from now on."""
        ages = [rule.max_age_ms for rule in self._rules.rules if rule.max_age_ms is not None]
        if ages:
            self._arm(max(LEAST_AGE_SECONDS, min(AGE_SECONDS, min(ages) / 4000)))

    def stop(self) -> None:
        """Let none go any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- writing

    def append(self, scope: str, key: str, old: bytes | None, new: bytes | None, cause: Cause | None) -> int | None:
        """Write a change that is being made; its revision, or None where the scope has no log."""
        log = self._log(scope)
        last = self.latest(scope)
        if log is None or last is None:
            return None
        commits = self._commits
        change = LoggedChange(scope, last + 1, self._clock(), key, old, new, cause)
        if commits is None:
            log.append(change)
            return change.revision
        filling = commits.filling
        filling.logged.append(change)
        filling.last_revisions[scope] = change.revision
        filling.revisions[scope, key] = None if new is None else change.revision
        trimmed = change.revision - log.rule.max_length
        if trimmed > 0 and trimmed % TRIMMED_AT_ONCE == 0:
            filling.trimmed[scope] = trimmed
        return change.revision

    def latest(self, scope: str) -> int | None:
        """The latest revision of a scope, which mutations count on from; None where it has no log."""
        log = self._log(scope)
        if log is None:
            return None
        return log.last if self._commits is None else self._commits.revision_of_scope(scope) or log.last

    def current_revision(self, scope: str, key: str) -> int | None:
        """The revision of the value that mutations see, None where there is none, or it is older than the log."""
        committed = self.revision(scope, key)
        return committed if self._commits is None else self._commits.revision_of((scope, key), committed)

    def committed(self, written: Changes) -> None:
        """What was written is seen from now on."""
        for change in written.logged:
            if (log := self._log(change.scope)) is not None:
                log.append(change)

    def _log(self, scope: str) -> ScopeLog | None:
        log = self._logs.get(scope)
        if log is None and (rule := self._rules.of(scope)) is not None:
            log = self._logs[scope] = ScopeLog(rule)
        return log

    # -- reading

    def revision(self, scope: str, key: str) -> int | None:
        """The revision of the value that is there."""
        log = self._logs.get(scope)
        return None if log is None else log.revisions.get(key)

    def page(self, scope: str, key: str | None, after: str | None, limit: int) -> LogPage:
        asked = None if after is None else parse_position(after)
        rule = self._rules.of(scope)
        if rule is None:
            raise no_log(scope)
        log = self._logs.get(scope) or ScopeLog(rule)
        store = self._store()
        begins = Position(store, log.first - 1) if asked is None else asked
        check_kept(begins, store, log.first, log.last)
        if limit == 0:
            return LogPage([], str(Position(store, log.last)), log.first)
        known = begins.revision
        found: list[Logged] = []
        size, looked_at = 0, known - log.first + 1
        for change in islice(log.changes, looked_at, looked_at + (limit if key is None else LOOKED_AT)):
            known = change.revision
            if key is None or change.key == key:
                event = _event(change)
                found.append(Logged(change.revision, change.at_ms, event.payload()))
                size += event.size
            if len(found) == limit or size >= PAGE_BYTES:
                break
        return LogPage(found, str(Position(store, known)), log.first)

    # -- age

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_old, seconds)

    def _end_old(self, seconds: float) -> None:
        """Let changes go that are too old; what is left for another turn follows at once."""
        now, left = self._clock(), ENDS_PER_TURN
        for scope, log in self._logs.items():
            if log.rule.max_age_ms is None:
                continue
            oldest, before = now - log.rule.max_age_ms, left
            while left and log.changes and log.changes[0].at_ms <= oldest:
                log.changes.popleft()
                left -= 1
            if left < before and self._commits is not None:
                self._forget(self._commits, scope, log.first - 1)
            if not left:
                break
        self._arm(seconds if left else 0)

    @staticmethod
    def _forget(commits: Commits, scope: str, upto: int) -> None:
        def forget(changes: Changes) -> None:
            changes.trimmed[scope] = max(upto, changes.trimmed.get(scope, 0))

        commits.keep(forget)


def _event(change: LoggedChange) -> Change:
    kind: EventType = "state:deleted" if change.new is None else "state:created" if change.old is None else "state:updated"
    return Change("", change.scope, change.key, kind, change.old, change.new, change.cause)
